"""Small rankers and random requests for tests."""

from typing import Any

import numpy as np

from muse_keras.tables.item_table import inverse_norms_of

NUM_ITEMS = 60
DIM = 8
SIZES = {"profile": 4, "category": 7, "city": 5, "province": 6}
SMALL: dict[str, Any] = {
    "num_items": NUM_ITEMS,
    "profile_sizes": (SIZES["profile"],) * 5,
    "category_size": SIZES["category"],
    "city_size": SIZES["city"],
    "province_size": SIZES["province"],
    "vector_dim": DIM,
    "embedding_dim": 4,
    "recent": 6,
    "hidden_units": (16, 8),
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
) -> dict[str, np.ndarray]:
    """Random requests with padding anywhere in the histories."""

    def index(size: int, *shape: int) -> np.ndarray:
        return rng.integers(0, size, shape).astype("int32")

    history, listed = (batch, length), (batch, candidates)
    return {
        "user_profile": index(SIZES["profile"], batch, 5),
        "behavior_rows": index(NUM_ITEMS + 1, *history),
        "behavior_categories": index(SIZES["category"], *history),
        "behavior_mask": rng.random(history) < 0.8,
        "candidate_rows": index(NUM_ITEMS + 1, *listed),
        "candidate_categories": index(SIZES["category"], *listed),
        "candidate_cities": index(SIZES["city"], *listed),
        "candidate_provinces": index(SIZES["province"], *listed),
        "candidate_category_matches": rng.integers(0, 9, listed).astype(
            "float32"
        ),
        "candidate_mask": np.ones(listed, bool),
    }
