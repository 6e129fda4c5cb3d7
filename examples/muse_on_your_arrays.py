"""The whole MUSE model on arrays of your own, without pipeline or TFX.

Put your arrays in place of `sample_data`: vectors of your items, and requests
as docs/layers.md describes them. Features have your names; here are some of
each kind, and two labels. Runs on every backend.

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
make_requests = sample_data.requests_with_own_features
train, test = (make_requests(users, seed=users) for users in (1_500, 500))
with tempfile.TemporaryDirectory() as folder:
    table = ItemTable.write(
        folder,
        item_ids=np.arange(1, len(vectors) + 1),
        codes=np.round(127 * vectors).astype("int8"),
        features={},
        source="examples/sample_data.py",
    )
    # Sizes count index 0, which means missing. Each column of an input is
    # here: those of `candidate_features` are a category and three tags.
    model = MUSE(
        num_items=table.num_items,
        user_sizes={"age": 8, "income": 6},
        item_sizes={"category": sample_data.CATEGORIES, "tags": (9, 3)},
        behavior_features=("category",),  # of items, for behaviors too
        behavior_sizes={"action": 4},  # behaviors' own: view, cart, buy
        matches=("category",),
        context_sizes={"device": 3},  # of the request
        item_numbers=2,  # the price, standardized, and whether it is known
        labels=("click", "buy"),
        vector_dim=table.dim,
        k=20,
        seed=0,
    )
    model.table.assign(table)
model.compile(RowSparseAdam(2e-3), ImpressionCrossentropy())
model.fit(*train, batch_size=50, epochs=1, verbose=0)

scores = model.predict(test.inputs, batch_size=500, verbose=0)
for place, label in enumerate(model.labels):
    auc = sample_data.auc(test.clicks[..., place], scores[..., place])
    print(f"{label}: AUC {auc:.3f} after one epoch")
first = {name: value[:1] for name, value in test.inputs.items()}
why = model.explain(first)
nearest = ops.convert_to_numpy(why["behavior_indices"])[0, :, 0]
print("click:       ", ops.convert_to_numpy(why["click_probability"])[0])
print("buy:         ", ops.convert_to_numpy(why["buy_probability"])[0])
print("most similar:", nearest, "in the history")
