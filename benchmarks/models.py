"""Exported models of chosen size, for benchmarks that serve.

`export_muse` writes a real MUSE ranker: random item vectors, random weights,
the product's own export. `export_echo` writes a model with the same `rank`
signature and no work in it, so that what a call costs besides the model can
be seen. `export_matching` writes a search for candidates.
"""

from __future__ import annotations

import pathlib

import numpy as np

DIM = 128
USER = tuple(f"profile_{number}" for number in range(1, 6))
CATEGORIES = 1_000
CITIES = 300
PROVINCES = 34
PROFILES = 100
MATCHING_DIM = 64


def export_muse(
    folder: pathlib.Path,
    num_items: int,
    with_user_cache: bool = False,
    seed: int = 0,
    target: str = "any",
) -> pathlib.Path:
    """Write a MUSE ranker over `num_items` items with random weights.

    Args:
        folder: where to write; the item table and the export go below it.
        num_items: items in the table; their ids are 1 to 9 digits long.
        with_user_cache: add a user cache of the default size.
        seed: of the weights; the item table is always the same.
        target: as of `export_saved_model`.

    Returns:
        The version folder.
    """
    import keras

    from muse_keras.models import MUSE
    from muse_keras.tables import ItemTable
    from serving.export import UserCacheConfig, export_saved_model

    generator = np.random.default_rng(0)
    keras.utils.set_random_seed(seed)
    table = ItemTable.write(
        folder / "items",
        item_ids(num_items),
        _codes(generator, num_items),
        {
            "category": generator.integers(1, CATEGORIES + 1, num_items),
            "city": generator.integers(1, CITIES + 1, num_items),
            "province": generator.integers(1, PROVINCES + 1, num_items),
        },
        source="benchmark",
    )
    model = MUSE(
        num_items,
        dict.fromkeys(USER, PROFILES + 2),
        {
            "category": CATEGORIES + 2,
            "city": CITIES + 2,
            "province": PROVINCES + 2,
        },
        behavior_features=("category",),
        matches=("category",),
        vector_dim=DIM,
    )
    model.table.assign(table)
    vocabularies = {
        **{f"user_{name}": np.arange(1, PROFILES + 1) for name in USER},
        "item_category": np.arange(1, CATEGORIES + 1),
        "item_city": np.arange(1, CITIES + 1),
        "item_province": np.arange(1, PROVINCES + 1),
    }
    export = export_saved_model(
        folder / "muse" / "1",
        model=model,
        item_table=table,
        learned=vocabularies,
        user_cache=UserCacheConfig() if with_user_cache else None,
        target=target,
    )
    return export.path


def export_echo(folder: pathlib.Path) -> pathlib.Path:
    """Write a model that answers `rank` with numbers and computes nothing.

    Args:
        folder: where to write.

    Returns:
        The version folder.
    """
    import tensorflow as tf

    from serving.export.feature_names import single_categories
    from serving.export.request import rank_inputs

    class Echo(tf.Module):
        @tf.function(autograph=False)
        def rank(self, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            # Each input is looked at, or it would be cut from the graph.
            candidates = inputs.pop("candidate_item_ids")
            used = tf.add_n(
                [
                    tf.reshape(v, [tf.shape(v)[0], -1])[:, -1:]
                    for v in inputs.values()
                ]
            )
            scores = tf.cast((candidates + used) % 1009, tf.float32)
            return {"click_probability": scores / 1009.0}

    module = Echo()
    inputs = rank_inputs(single_categories(USER, behavior=("category",)))
    path = folder / "echo" / "1"
    tf.saved_model.save(
        module,
        str(path),
        signatures={"rank": module.rank.get_concrete_function(**inputs)},
    )
    return path


def export_matching(
    folder: pathlib.Path, num_items: int, num_candidates: int
) -> pathlib.Path:
    """Write a retrieval model with `recommend`: an exact search.

    The mean of the behaviors' vectors is compared with all items', as the
    product's retrieval model does, with random vectors.

    Args:
        folder: where to write.
        num_items: items, as `item_ids` numbers them.
        num_candidates: items of an answer.

    Returns:
        The version folder.
    """
    import tensorflow as tf

    class Matching(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            generator = np.random.default_rng(1)
            self.ids = tf.Variable(item_ids(num_items), trainable=False)
            self.vectors = tf.Variable(
                generator.standard_normal(
                    (num_items, MATCHING_DIM), np.float32
                ),
                trainable=False,
            )

        @tf.function(
            autograph=False,
            input_signature=[
                tf.TensorSpec([None, None], tf.int64, name="behavior_item_ids")
            ],
        )
        def recommend(
            self, behavior_item_ids: tf.Tensor
        ) -> dict[str, tf.Tensor]:
            rows = tf.searchsorted(
                self.ids, tf.reshape(behavior_item_ids, [-1])
            )
            rows = tf.reshape(rows, tf.shape(behavior_item_ids))
            queries = tf.reduce_mean(tf.gather(self.vectors, rows), axis=1)
            scores = tf.matmul(queries, self.vectors, transpose_b=True)
            best, rows = tf.math.top_k(scores, num_candidates)
            return {
                "candidate_item_ids": tf.gather(self.ids, rows),
                "scores": best,
            }

    module = Matching()
    path = folder / "matching" / "1"
    tf.saved_model.save(
        module, str(path), signatures={"recommend": module.recommend}
    )
    return path


def item_ids(num_items: int) -> np.ndarray:
    """Return distinct sorted int64 ids, spread over nine digits."""
    step = max(1, 999_999_999 // num_items)
    return np.arange(1, num_items + 1, dtype=np.int64) * step


def rank_request(
    num_items: int, candidates: int, length: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return the inputs of one `rank` call.

    Args:
        num_items: items of the table.
        candidates: ids to score.
        length: ids in the history.
        seed: of the choice.

    Returns:
        `user_id` and `user_profile_1` to `_5` (1,), `behavior_item_ids` and
        `behavior_category` (1, length), `candidate_item_ids` (1, candidates);
        int64.
    """
    generator = np.random.default_rng(seed)
    ids = item_ids(num_items)
    profile = generator.integers(1, PROFILES + 1, (len(USER), 1))
    return {
        "user_id": np.array([seed + 1], np.int64),
        **{f"user_{n}": value for n, value in zip(USER, profile, strict=True)},
        "behavior_item_ids": generator.choice(ids, (1, length)),
        "behavior_category": generator.integers(1, CATEGORIES + 1, (1, length)),
        "candidate_item_ids": generator.choice(ids, (1, candidates)),
    }


def _codes(generator: np.random.Generator, count: int) -> np.ndarray:
    """Return int8 codes (count, DIM) of unit vectors."""
    vectors = generator.standard_normal((count, DIM), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.trunc(127 * vectors).astype(np.int8)
