"""An export with features of every kind, and what each becomes, in NumPy.

    python -m tests.serving.export.kinds FOLDER

writes it, for `scripts/gpu_kernels.py`.
"""

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from muse_keras.tables import ItemTable
from schemas.columns import Feature
from schemas.ranking_schema import RankingSchema
from serving.export.request import rank_inputs
from tests.serving.export.world import make_transform_output, to_example

DIM, K, MAX_HISTORY = 8, 3, 6
DECLARED = RankingSchema.model_validate(
    {
        "name": "kinds",
        "labels": {"click": {}, "buy": {"loss_weight": 3}},
        "features": {
            "user": {
                "town": {},
                "club": {"type": "string", "hashed": 5},
                "tastes": {"many": 3},
                "age": {"type": "float"},
                "income": {"type": "float", "buckets": 4},
                "profile": {"type": "vector", "dim": 3},
            },
            "item": {
                "brand": {},
                "tags": {"many": 2, "hashed": 7},
                "price": {"type": "float", "log": True},
                "grade": {"type": "float", "buckets": 3},
                "style": {"type": "vector", "dim": 2},
            },
            "context": {
                "device": {"type": "string"},
                "slots": {"training_only": True},
                "heat": {"type": "float"},
                "themes": {"many": 2},
            },
            "candidate": {
                "badges": {"many": 2, "hashed": 3, "training_only": True},
                "discount": {"type": "float"},
                "stock": {"type": "float", "buckets": 2},
                "position": {"training_only": True},
            },
            "behavior": {
                "action": {"type": "string", "hashed": 4},
                "tags": {},
                "brand": {"column": "brand_then"},
                "grade": {},
                "dwell": {"type": "float", "buckets": 4},
            },
            "matches": ["brand", "tags"],
        },
    }
)
FEATURES = DECLARED.features
_IDS = [0, 5, -6, 7, 8, 555]
Request = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Kinds:
    """The exported toy.

    Attributes:
        item_table: 60 items.
        learned: what Transform learned.
        model: a MUSE ranker with random weights.
        export: the `Export`.
        loaded: the SavedModel, loaded again.
    """

    item_table: ItemTable
    learned: dict[str, np.ndarray]
    model: Any
    export: Any
    loaded: Any

    def call(self, signature: str, **inputs: Any) -> dict[str, np.ndarray]:
        """Call a signature of the loaded SavedModel."""
        outputs = self.loaded.signatures[signature](
            **{name: tf.constant(value) for name, value in inputs.items()}
        )
        return {name: value.numpy() for name, value in outputs.items()}


def raw_values(
    rng: np.random.Generator, feature: Feature, count: int
) -> np.ndarray:
    """Return raw values of things, (count,) or (count, n), some missing."""
    shape = (count, feature.raw_width)
    if feature.dtype == "int64":
        values = rng.choice(_IDS, shape)
    else:
        values = rng.normal(size=shape).astype(np.float32)
        values[rng.random(count) < 0.2] = np.nan
        # On a boundary of the buckets, and beyond all numbers seen.
        values[rng.random(count) < 0.1] = 0.25
        values[rng.random(count) < 0.1] = 9.0
    return values if feature.many or feature.dim else values[:, 0]


def make_table(folder: Path, count: int = 60) -> ItemTable:
    """Return items; the first has no features."""
    rng = np.random.default_rng(1)
    codes = rng.integers(-90, 91, (count, DIM)).astype(np.int8)
    features = {n: raw_values(rng, f, count) for n, f in FEATURES.item.items()}
    for name, values in features.items():
        values[0] = 0 if FEATURES.item[name].dtype == "int64" else np.nan
    return ItemTable.write(
        folder, np.arange(1, count + 1) * 1_000_003, codes, features, "test"
    )


def make_requests(table: ItemTable, count: int, seed: int) -> list[Request]:
    """Return raw requests: values of things, for the context one."""
    rng = np.random.default_rng(seed)
    requests = []
    for index in range(count):
        history = 0 if index % 5 == 4 else int(rng.integers(1, 12))
        candidates = int(rng.integers(1, 6))
        unknown = [*table.item_ids, 4242]
        things = {
            "user": (FEATURES.user, 1),
            "context": (FEATURES.context, 1),
            "candidate": (FEATURES.candidate, candidates),
            "behavior": (
                {
                    name: FEATURES.of_behavior(name)
                    for name in FEATURES.behavior
                    if name not in FEATURES.of_items
                },
                history,
            ),
        }
        requests.append(
            {
                "user_id": rng.integers(1, 1 << 60, 1),
                "behavior_item_ids": rng.choice(unknown, history),
                "candidate_item_ids": rng.choice(
                    unknown, candidates, replace=False
                ),
                **{
                    f"{group}_{name}": raw_values(rng, one, size)
                    for group, (features, size) in things.items()
                    for name, one in features.items()
                },
            }
        )
    return requests


def batched(requests: list[Request]) -> Request:
    """Return the inputs of `rank`, padded with what is missing."""
    inputs = {}
    for name, spec in rank_inputs(FEATURES).items():
        values = [request[name] for request in requests]
        if name.startswith(("user_", "context_")):
            inputs[name] = np.concatenate(values)
            continue
        width = max(map(len, values))
        missing = np.nan if spec.dtype.is_floating else 0
        inputs[name] = np.stack(
            [
                np.concatenate(
                    [
                        one,
                        np.full((width - len(one), *one.shape[1:]), missing),
                    ]
                ).astype(spec.dtype.as_numpy_dtype)
                for one in values
            ]
        )
    return inputs


def example_values(table: ItemTable, request: Request) -> Request:
    """Return a request as in an Example: flat, with features of items."""
    rows = table.rows(request["candidate_item_ids"])
    history = table.rows(request["behavior_item_ids"])
    values = {
        **request,
        **{
            name: np.repeat(one, len(rows), axis=0)
            for name, one in request.items()
            if name.startswith("context_")
        },
        **{
            f"candidate_{name}": known_values(table, name, rows)
            for name in FEATURES.item
        },
        **{
            f"behavior_{name}": known_values(table, name, history)
            for name in FEATURES.of_items
        },
        "clicks": np.arange(len(rows)) % 2,
        "label_buy": np.zeros(len(rows), np.int64),
    }
    return {name: one.ravel() for name, one in values.items()}


def known_values(table: ItemTable, name: str, rows: np.ndarray) -> np.ndarray:
    """Return raw features of items in rows; missing for unknown items."""
    values = table.features[name][rows].copy()
    values[rows == 0] = 0 if values.dtype.kind == "i" else np.nan
    return values


def encoded(
    feature: Feature, learned: np.ndarray, raw: np.ndarray
) -> np.ndarray:
    """Return what a feature becomes, (things, width), by its definition."""
    values = raw.reshape(-1, feature.raw_width)
    if feature.kind == "vector":
        given = ~np.isnan(values[:, :1])
        return np.concatenate([np.where(given, values, 0), given], axis=1)
    if feature.kind == "number":
        mean, scale = learned
        given = ~np.isnan(values)
        known = np.where(given, values, 0).astype(np.float64)
        if feature.log:
            known = np.sign(known) * np.log(1 + abs(known))
        number = (known - mean) / scale if scale else 0 * known
        return np.concatenate([np.where(given, number, 0), given], axis=1)

    def index(value: Any) -> int:
        if feature.kind == "buckets":
            return 0 if np.isnan(value) else 1 + int((learned <= value).sum())
        if value == 0:
            return 0
        if feature.kind == "hashed":
            return 1 + bucket_of(int(value), feature.hashed)
        found = np.flatnonzero(learned == value)
        return int(found[0]) + 1 if len(found) else len(learned) + 1

    return np.vectorize(index, otypes=[np.int64])(values)


def bucket_of(value: int, buckets: int) -> int:
    """Return the bucket by MurmurHash3's finalizer, in whole numbers."""
    bits = value % (1 << 64)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        bits = (bits ^ (bits >> 33)) * factor % (1 << 64)
    return ((bits ^ (bits >> 33)) >> 32) * buckets >> 32


def model_inputs(kinds: Kinds, request: Request) -> dict[str, np.ndarray]:
    """Return the model's inputs of one request, from the definitions."""
    table, features = kinds.item_table, FEATURES

    def by_definition(name: str, raw: np.ndarray) -> np.ndarray:
        learned = kinds.learned.get(name, np.zeros(0))
        return encoded(features.learned()[name], learned, raw)

    items = request["candidate_item_ids"]
    rows = table.rows(items)
    kept = np.flatnonzero(request["behavior_item_ids"])[-MAX_HISTORY:]
    history = table.rows(request["behavior_item_ids"][kept])

    def group(names: dict[str, Feature], of: str, is_index: bool) -> list:
        return [
            by_definition(f"{of}_{name}", request[f"{of}_{name}"])
            for name, one in names.items()
            if one.is_index == is_index
        ]

    def context(is_index: bool) -> list:
        shared = group(features.context, "context", is_index)
        columns = [np.repeat(one, len(items), axis=0) for one in shared]
        return columns + group(features.candidate, "candidate", is_index)

    of_candidates = {
        name: by_definition(f"item_{name}", known_values(table, name, rows))
        for name in features.item
    }
    behaviors = {
        name: by_definition(
            f"item_{name}" if name in features.item else f"behavior_{name}",
            known_values(table, name, history)
            if name in features.of_items
            else request[f"behavior_{name}"][kept],
        )
        for name in ("tags", "brand", "grade", "action", "dwell")
    }
    matches = [
        [
            sum(int((behaviors[name] == v).sum()) for v in values if v)
            for values in of_candidates[name]
        ]
        for name in features.matches
    ]

    def items_of(is_index: bool) -> list:
        return [
            values
            for name, values in of_candidates.items()
            if features.item[name].is_index == is_index
        ]

    def joined(columns: list, dtype: str) -> np.ndarray:
        return np.concatenate(columns, axis=1).astype(dtype)

    return {
        "user_features": joined(group(features.user, "user", True), "int32")[0],
        "user_numbers": joined(group(features.user, "user", False), "float32")[
            0
        ],
        "behavior_rows": history,
        "behavior_features": joined([*behaviors.values()], "int32"),
        "behavior_mask": np.ones(len(kept), bool),
        "candidate_rows": rows,
        "candidate_features": joined(items_of(True), "int32"),
        "candidate_numbers": joined(items_of(False), "float32"),
        "candidate_matches": np.array(matches, np.float32).T,
        "context_features": joined(context(True), "int32"),
        "context_numbers": joined(context(False), "float32"),
        "candidate_mask": items != 0,
    }


def expected_scores(kinds: Kinds, request: Request) -> np.ndarray:
    """Return the model's probabilities (C, labels) for a request alone."""
    inputs = model_inputs(kinds, request)
    logits = kinds.model({name: one[None] for name, one in inputs.items()})
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)[0]))


def make_model(item_table: ItemTable, learned: dict[str, np.ndarray]) -> Any:
    """Return a ranker with random weights and its table assigned."""
    import keras

    from muse_keras.models import MUSE
    from serving.export.encodings import model_arguments

    keras.utils.set_random_seed(3)
    model = MUSE(
        item_table.num_items,
        **model_arguments(FEATURES, learned),
        labels=("click", "buy"),
        k=K,
        vector_dim=DIM,
        embedding_dim=4,
        recent=3,
        num_tiers=5,
        hidden_units=(16, 8),
        spare_rows=256,
    )
    model.table.assign(item_table)
    rng = np.random.default_rng(4)
    for variable in model.trainable_variables:
        shape = tuple(variable.shape)
        variable.assign(rng.normal(0.0, 0.4, shape).astype("float32"))
    return model


def make_kinds(folder: Path) -> Kinds:
    """Export the toy with every signature into an empty folder."""
    import tensorflow_transform as tft

    from serving.export import UserCacheConfig, export_saved_model
    from tfx_pipeline import learned_values, preprocessing

    item_table = make_table(folder / "table")
    requests = [
        example_values(item_table, one)
        for one in make_requests(item_table, 40, 5)
    ]
    config = {
        "features": FEATURES.model_dump(mode="json"),
        "max_history": MAX_HISTORY,
        "vocabulary_size": 100,
        "vocabulary_frequency_threshold": 1,
    }
    transform_output = make_transform_output(
        requests,
        folder,
        functools.partial(preprocessing.preprocessing_fn, custom_config=config),
    )
    learned = learned_values.read_learned(
        tft.TFTransformOutput(str(transform_output)), FEATURES
    )
    model = make_model(item_table, learned)
    export = export_saved_model(
        folder / "muse" / "1",
        model=model,
        item_table=item_table,
        features=FEATURES,
        learned=learned,
        schema=DECLARED,
        max_history=MAX_HISTORY,
        transform_output=transform_output,
        warmup_examples=[to_example(one) for one in requests[:2]],
        # As long as `rank` fills up histories of these lengths.
        user_cache=UserCacheConfig(users=16, ways=4, max_length=100),
    )
    loaded = tf.saved_model.load(str(export.path))
    return Kinds(item_table, learned, model, export, loaded)


def export_spread(kinds: Kinds, folder: Path) -> Any:
    """Export the toy once more, spread over two GPUs."""
    from serving.export import UserCacheConfig, export_saved_model

    return export_saved_model(
        folder,
        model=kinds.model,
        item_table=kinds.item_table,
        features=FEATURES,
        learned=kinds.learned,
        max_history=MAX_HISTORY,
        user_cache=UserCacheConfig(users=16, ways=4, max_length=100),
        devices=("GPU:0", "GPU:1"),
    )


if __name__ == "__main__":
    root = Path(sys.argv[1])
    export_spread(make_kinds(root), root / "spread" / "1")
