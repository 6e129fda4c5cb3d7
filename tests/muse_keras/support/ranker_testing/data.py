"""Small rankers and random requests for tests."""

from typing import Any

import numpy as np

from muse_keras.tables.item_table import inverse_norms_of

NUM_ITEMS = 60
DIM = 8
SMALL: dict[str, Any] = {
    "num_items": NUM_ITEMS,
    "user_sizes": {f"user_{number}": 4 for number in range(1, 6)},
    "item_sizes": {"category": 7, "city": 5, "province": 6},
    "behavior_features": ("category",),
    "matches": ("category",),
    "vector_dim": DIM,
    "embedding_dim": 4,
    "recent": 6,
    "hidden_units": (16, 8),
}
# Several of each, in other orders than that of `item_sizes`; and none at all.
RICH = SMALL | {
    "user_sizes": {"age": 4, "income": 9},
    "item_sizes": {"color": 6, "brand": 7, "price": 5},
    "behavior_features": ("price", "color"),
    "matches": ("color", "price"),
}
BARE = SMALL | {
    "user_sizes": {},
    "item_sizes": {},
    "behavior_features": (),
    "matches": (),
}

# Features of every kind: pairs are of several values at once.
OWN = SMALL | {
    "user_sizes": {"age": 4, "likes": (6, 3), "income": 9},
    "item_sizes": {"category": 7, "tags": (9, 3), "labels": (5, 2), "price": 5},
    "behavior_features": ("tags", "category"),
    "matches": ("category", "tags"),
    "context_sizes": {"device": 4, "topics": (6, 2), "position": 11},
    "behavior_sizes": {"action": 5, "since": 8, "rooms": (4, 2)},
    "user_numbers": 2,
    "item_numbers": 3,
    "context_numbers": 1,
    "labels": ("click", "buy"),
    "training_only": ("position",),
}


def item_codes(rng: np.random.Generator, num_items: int = NUM_ITEMS):
    """Codes of an item table: row 0 is unknown, row 7 has no vector."""
    codes = rng.integers(-127, 128, (num_items + 1, DIM)).astype("int8")
    codes[[0, 7]] = 0
    # Duplicates: equal similarities.
    codes[11] = codes[12] = codes[13]
    return codes


def fill_table(model: Any, seed: int = 17) -> np.ndarray:
    """Write codes into a model's item table and return them."""
    codes = item_codes(np.random.default_rng(seed), model.num_items)
    assign_codes(model, codes)
    return codes


def assign_codes(model: Any, codes: np.ndarray) -> None:
    """Write codes and their inverse norms."""
    model.table.codes.assign(codes)
    model.table.inverse_norms.assign(inverse_norms_of(codes))


def ranker_inputs(
    rng: np.random.Generator,
    batch: int = 3,
    length: int = 12,
    candidates: int = 4,
    layout: dict[str, Any] = SMALL,
) -> dict[str, np.ndarray]:
    """Random requests with padding anywhere in the histories.

    Groups that have no features in the layout are left out.
    """

    def index(sizes: Any, *shape: int) -> np.ndarray:
        return rng.integers(0, sizes, shape).astype("int32")

    def tops(sizes: dict[str, Any]) -> list[int]:
        """What the indices of each column are below."""
        pairs = [x if isinstance(x, tuple) else (x, 1) for x in sizes.values()]
        return [size for size, values in pairs for _ in range(values)]

    history, listed = (batch, length), (batch, candidates)
    items = layout["item_sizes"]
    shared = {name: items[name] for name in layout["behavior_features"]}
    inputs = {
        "behavior_rows": index(NUM_ITEMS + 1, *history),
        "behavior_mask": rng.random(history) < 0.8,
        "candidate_rows": index(NUM_ITEMS + 1, *listed),
        "candidate_mask": np.ones(listed, bool),
    }
    for name, sizes, shape in (
        ("user_features", layout["user_sizes"], (batch,)),
        (
            "behavior_features",
            shared | layout.get("behavior_sizes", {}),
            history,
        ),
        ("candidate_features", items, listed),
        ("context_features", layout.get("context_sizes", {}), listed),
    ):
        if sizes:
            columns = tops(sizes)
            inputs[name] = index(columns, *shape, len(columns))
    if layout["matches"]:
        counts = rng.integers(0, 9, (*listed, len(layout["matches"])))
        inputs["candidate_matches"] = counts.astype("float32")
    for name, key, shape in (
        ("user_numbers", "user_numbers", (batch,)),
        ("candidate_numbers", "item_numbers", listed),
        ("context_numbers", "context_numbers", listed),
    ):
        if layout.get(key):
            values = rng.normal(size=(*shape, layout[key]))
            inputs[name] = values.astype("float32")
    return inputs


PREFIXES = {"behavior": ("behavior",), "candidate": ("candidate", "context")}


def padded(inputs: dict[str, np.ndarray], kind: str, count: int) -> dict:
    """Inputs with padding at the end of all candidates or histories."""
    return {
        name: np.pad(array, [(0, 0), (0, count)] + [(0, 0)] * (array.ndim - 2))
        if name.startswith(PREFIXES[kind])
        else array
        for name, array in inputs.items()
    }
