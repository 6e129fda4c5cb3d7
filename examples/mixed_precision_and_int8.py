"""One set of weights as float32, mixed bfloat16, and with an int8 tower.

Similarities, softmax and logits stay float32 in all of them. What changes is
printed: the bytes of the tower, the scores, and how well they order.

    KERAS_BACKEND=torch python examples/mixed_precision_and_int8.py
"""

import keras
import numpy as np
import sample_data
from keras import ops

from muse_keras.losses import ImpressionCrossentropy
from muse_keras.models import MUSE
from muse_keras.optimizers import RowSparseAdam


def build(dtype: str) -> MUSE:
    """A model whose layers compute in a dtype policy."""
    model = MUSE(
        sample_data.ITEMS,
        **sample_data.FEATURES,
        vector_dim=sample_data.DIM,
        k=20,
        seed=0,
        dtype=dtype,
    )
    codes = np.round(127 * sample_data.item_vectors()).astype("int8")
    model.table.codes.assign(codes)
    norms = np.linalg.norm(codes.astype("float64"), axis=1)
    model.table.inverse_norms.assign(
        1.0 / np.maximum(norms, 1e-9) * (norms > 0)
    )
    return model


def size(model: MUSE) -> int:
    """Bytes of the tower's weights."""
    return sum(
        int(np.prod(weight.shape)) * np.dtype(weight.dtype).itemsize
        for weight in model.tower.weights
    )


def main() -> None:
    """Trains once; compares the three."""
    keras.utils.set_random_seed(0)
    test = sample_data.requests(500, seed=3)
    model = build("float32")
    model.compile(RowSparseAdam(2e-3), ImpressionCrossentropy())
    model.fit(*sample_data.requests(1_000, 2), batch_size=50, verbose=0)

    def probability(ranker: MUSE) -> np.ndarray:
        scores = ranker.predict(test.inputs, batch_size=500, verbose=0)
        return ops.convert_to_numpy(ops.sigmoid(scores))

    wanted = probability(model)
    half = build("mixed_bfloat16")
    half.set_weights(model.get_weights())
    int8 = build("float32")
    int8.set_weights(model.get_weights())
    for layer in int8.tower.dense_layers:
        layer.quantize("int8")

    print("              tower bytes   AUC    largest change of a probability")
    for title, ranker in (
        ("float32", model),
        ("mixed_bfloat16", half),
        ("int8 tower", int8),
    ):
        found = probability(ranker)
        auc = sample_data.auc(test.clicks, found)
        change = np.abs(found - wanted).max()
        print(f"{title:14} {size(ranker):10,}   {auc:.3f}  {change:.4f}")


if __name__ == "__main__":
    main()
