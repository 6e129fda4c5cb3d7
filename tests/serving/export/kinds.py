"""An export with features of every kind, and what each becomes, in NumPy.

    python tests/serving/export/kinds.py FOLDER

writes it, for `scripts/gpu_kernels.py`.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from muse_keras.tables import ItemTable
from schemas.ranking_schema import Feature, RankingSchema
from serving.export.request import rank_inputs

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
LEARNED: dict[str, np.ndarray] = {
    **{
        name: np.array([7, -6, 5, 8])
        for name in (
            *("user_town", "user_tastes", "item_brand", "context_device"),
            *("context_slots", "context_themes", "candidate_position"),
        )
    },
    **{
        name: np.array(values, np.float32)
        for name, values in {
            "user_age": [0.4, 1.5],
            "item_price": [-0.2, 0.7],
            "context_heat": [0.1, 0.0],
            "candidate_discount": [0.0, 2.0],
            "user_income": [-0.5, 0.25, 1.0],
            "item_grade": [-0.25, 0.5],
            "candidate_stock": [0.0],
            "behavior_dwell": [-1.0, 0.0, 1.0],
        }.items()
    },
}
Request = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Kinds:
    """The exported toy.

    Attributes:
        item_table: 60 items.
        model: a MUSE ranker with random weights.
        export: the `Export`.
        loaded: the SavedModel, loaded again.
    """

    item_table: ItemTable
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
    table = ItemTable.write(
        folder, np.arange(1, count + 1) * 1_000_003, codes, {}, "test"
    )
    # SHIM until the table has numbers.
    table.__dict__["features"] = {
        name: np.concatenate([0 * values[:1], values])
        for name, values in features.items()
    }
    return table


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


def to_example(table: ItemTable, request: Request) -> bytes:
    """Return a request as a serialized Example, with items' features."""
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
        "clicks": np.zeros(len(rows), np.int64),
        "label_buy": np.zeros(len(rows), np.int64),
    }
    example = tf.train.Example()
    for name, array in values.items():
        feature = example.features.feature[name]
        held = (
            feature.float_list
            if array.dtype.kind == "f"
            else feature.int64_list
        )
        held.value.extend(array.ravel().tolist())
    return example.SerializeToString()


def known_values(table: ItemTable, name: str, rows: np.ndarray) -> np.ndarray:
    """Return raw features of items in rows; missing for unknown items."""
    values = table.features[name][rows].copy()
    values[rows == 0] = 0 if values.dtype.kind == "i" else np.nan
    return values


def encoded(name: str, feature: Feature, raw: Any) -> np.ndarray:
    """Return what a feature becomes, (things, width), by its definition."""
    values = np.asarray(raw).reshape(-1, feature.raw_width)
    learned = LEARNED.get(name, np.zeros(0))
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
    items = request["candidate_item_ids"]
    rows = table.rows(items)
    kept = np.flatnonzero(request["behavior_item_ids"])[-MAX_HISTORY:]
    history = table.rows(request["behavior_item_ids"][kept])

    def group(names: dict[str, Feature], of: str, is_index: bool) -> list:
        return [
            encoded(f"{of}_{name}", one, request[f"{of}_{name}"])
            for name, one in names.items()
            if one.is_index == is_index
        ]

    def context(is_index: bool) -> list:
        shared = group(features.context, "context", is_index)
        columns = [np.repeat(one, len(items), axis=0) for one in shared]
        return columns + group(features.candidate, "candidate", is_index)

    of_candidates = {
        name: encoded(f"item_{name}", one, known_values(table, name, rows))
        for name, one in features.item.items()
    }
    behaviors = {
        name: encoded(
            f"item_{name}" if name in features.item else f"behavior_{name}",
            features.of_behavior(name),
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


def make_model(item_table: ItemTable, spare_rows: int = 256) -> Any:
    """Return a ranker with random weights and its table assigned."""
    import keras

    from muse_keras.models import MUSE
    from serving.export.encodings import model_arguments

    keras.utils.set_random_seed(3)
    model = MUSE(
        item_table.num_items,
        **model_arguments(FEATURES, LEARNED),
        labels=("click", "buy"),
        k=K,
        vector_dim=DIM,
        embedding_dim=4,
        recent=3,
        num_tiers=5,
        hidden_units=(16, 8),
        spare_rows=spare_rows,
    )
    model.table.assign(item_table)
    rng = np.random.default_rng(4)
    for variable in model.trainable_variables:
        shape = tuple(variable.shape)
        variable.assign(rng.normal(0.0, 0.4, shape).astype("float32"))
    return model


def make_kinds(folder: Path) -> Kinds:
    """Export the toy with every signature but `serving_default`."""
    from serving.export import UserCacheConfig, export_saved_model

    item_table = make_table(folder / "table")
    model = make_model(item_table)
    export = export_saved_model(
        folder / "muse" / "1",
        model=model,
        item_table=item_table,
        features=FEATURES,
        learned=LEARNED,
        schema=DECLARED,
        max_history=MAX_HISTORY,
        # As long as `rank` fills up histories of these lengths.
        user_cache=UserCacheConfig(users=16, ways=4, max_length=100),
    )
    loaded = tf.saved_model.load(str(export.path))
    return Kinds(item_table, model, export, loaded)


if __name__ == "__main__":
    make_kinds(Path(sys.argv[1]))
