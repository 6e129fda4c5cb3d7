"""Small searches with a purchase for tests of the item embeddings."""

from typing import Any

import keras
import numpy as np

from muse_keras.layers import SCLTower
from muse_keras.models import SCL

WIDTHS = {"image": 6, "text": 4}
DIM = 8


def scl(shared: bool = True, **kwargs: Any) -> SCL:
    """A model with weights drawn from a fixed seed."""
    keras.utils.set_random_seed(3)
    towers = [
        SCLTower(WIDTHS, (8,), DIM, dtype=kwargs.get("dtype"), name=name)
        for name in ("query_tower", "item_tower")
    ]
    settings = {
        "name": "scl",
        "bank_size": 20,
        "temperature": 0.2,
        "margin": 0.3,
        **kwargs,
    }
    return SCL(towers[0], None if shared else towers[1], **settings)


def searches(rows: int = 24, seed: int = 0) -> dict[str, Any]:
    """Inputs; queries are noisy views of the item, some content is missing."""
    rng = np.random.default_rng(seed)

    def content(*shape: int) -> dict[str, np.ndarray]:
        return {
            name: rng.normal(size=(*shape, width)).astype("float32")
            for name, width in WIDTHS.items()
        }

    item = content(rows)
    query = {
        name: (values + 0.3 * rng.normal(size=values.shape)).astype("float32")
        for name, values in item.items()
    }
    query["text"][::3] = 0.0
    item["image"][::4] = 0.0
    return {
        "query": query,
        "item": item,
        "item_ids": rng.integers(1, rows, rows).astype("int32"),
        "negatives": content(rows, 3),
        "negative_mask": rng.random((rows, 3)) < 0.6,
    }
