"""The whole MUSE model on arrays of your own, without pipeline or TFX.

Put your arrays in place of `sample_data`: vectors of your items, and requests
as docs/layers.md describes them. Runs on every backend.

    KERAS_BACKEND=torch python examples/muse_on_your_arrays.py
"""

import tempfile

import numpy as np
import sample_data
from keras import ops

from muse_keras.losses import ImpressionCrossentropy
from muse_keras.models import MUSE
from muse_keras.optimizers import RowSparseAdam
from muse_keras.tables import ItemTable

vectors = sample_data.item_vectors()[1:]
train, test = (sample_data.requests(n, seed=n) for n in (1_500, 500))
with tempfile.TemporaryDirectory() as folder:
    table = ItemTable.write(
        folder,
        item_ids=np.arange(1, len(vectors) + 1),
        codes=np.round(127 * vectors).astype("int8"),
        features={},
        source="examples/sample_data.py",
    )
    model = MUSE(
        num_items=table.num_items,
        **sample_data.FEATURES,
        vector_dim=table.dim,
        k=20,
        seed=0,
    )
    model.table.assign(table)
model.compile(RowSparseAdam(2e-3), ImpressionCrossentropy())
model.fit(*train, batch_size=50, epochs=1, verbose=0)

scores = model.predict(test.inputs, batch_size=500, verbose=0)
print(f"AUC {sample_data.auc(test.clicks, scores):.3f} after one epoch")
first = {name: value[:1] for name, value in test.inputs.items()}
why = {
    name: ops.convert_to_numpy(value)
    for name, value in model.explain(first).items()
}
print("candidates:  ", first["candidate_rows"][0])
print("probability: ", why["click_probability"][0].round(3))
print("most similar:", why["behavior_indices"][0, :, 0], "in the history")
print("similarity:  ", why["similarities"][0, :, 0].round(2))
