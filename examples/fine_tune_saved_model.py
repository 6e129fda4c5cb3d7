"""Fine-tunes a saved model on newer data, with the item table frozen.

A model learns from requests of last month and is saved. This month users
click less often. The loaded model is wrong about how often, which its log
loss shows; training the dense part alone mends it.

    KERAS_BACKEND=torch python examples/fine_tune_saved_model.py
"""

import os
import tempfile

import keras
import numpy as np
import sample_data
from keras import ops

from muse_keras.losses import ImpressionCrossentropy
from muse_keras.models import MUSE
from muse_keras.optimizers import RowSparseAdam
from muse_keras.tables import ItemTable


def train_and_save(path: str, folder: str) -> None:
    """What happened last month."""
    vectors = sample_data.item_vectors()[1:]
    table = ItemTable.write(
        folder,
        item_ids=np.arange(1, len(vectors) + 1),
        codes=np.round(127 * vectors).astype("int8"),
        features={},
        source="examples/sample_data.py",
    )
    model = MUSE(
        table.num_items,
        **sample_data.FEATURES,
        vector_dim=table.dim,
        k=20,
        hidden_units=(64, 32),
        seed=0,
    )
    model.table.assign(table)
    model.compile(RowSparseAdam(2e-3), ImpressionCrossentropy())
    model.fit(*sample_data.requests(800, 2), batch_size=40, verbose=0)
    model.save(path)


def report(title: str, model: keras.Model, data: sample_data.Requests) -> None:
    """Prints how good the scores are."""
    loss = model.evaluate(*data, batch_size=500, verbose=0)
    scores = model.predict(data.inputs, batch_size=500, verbose=0)
    auc = sample_data.auc(data.clicks, scores)
    print(f"{title:20} log loss {loss:.3f}, AUC {auc:.3f}")


def main() -> None:
    """Loads, fine-tunes and compares."""
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "last_month.keras")
        train_and_save(path, os.path.join(folder, "items"))
        # `muse_keras.models` was imported: all classes are known by name.
        model = keras.saving.load_model(path)
    newer = sample_data.requests(600, seed=4, liking=0.25)
    test = sample_data.requests(500, seed=5, liking=0.25)
    report("as loaded", model, test)

    before = ops.convert_to_numpy(model.item_embedding.embeddings)
    model.item_embedding.trainable = False
    model.compile(RowSparseAdam(1e-3), ImpressionCrossentropy())
    model.fit(*newer, batch_size=40, verbose=0)
    report("fine-tuned", model, test)
    after = ops.convert_to_numpy(model.item_embedding.embeddings)
    print(f"item embeddings unchanged: {np.array_equal(before, after)}")


if __name__ == "__main__":
    main()
