"""One small world: a table, a ranker, a transform graph and its export."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from muse_keras.tables import ItemTable
from serving.client import RankRequest

MAX_HISTORY = 6
K = 4
DIM = 16
SPARE_ROWS = 2048
INT64 = np.iinfo(np.int64)
Features = dict[str, tuple[str, ...]]
PRESET: Features = {
    "user": tuple(f"profile_{i}" for i in range(1, 6)),
    "item": ("category", "city", "province"),
    "behavior": ("category",),
    "matches": ("category",),
}
# Raw ids of items, by feature.
_IDS = {
    "category": [11, -12, 13, 14, 15, 0],
    "city": [21, 22, 23, 999],
    "province": [31, -32],
    "brand": [41, 42, -43, 0, INT64.max],
    "shop": [51, 52],
}


@dataclasses.dataclass(frozen=True)
class World:
    """What the tests share.

    Attributes:
        features: declared names of features, by group.
        item_table: the table; ids reach both ends of int64.
        model: a MUSE ranker with random weights.
        vocabularies: raw ids by `user_<f>` and `item_<f>`, in the order of the
            transform graph.
        transform_output: folder of the transform graph.
        export: the `Export`.
    """

    features: Features
    item_table: ItemTable
    model: Any
    vocabularies: dict[str, np.ndarray]
    transform_output: Path
    export: Any

    @functools.cached_property
    def loaded(self) -> Any:
        """The SavedModel, loaded again."""
        return tf.saved_model.load(str(self.export.path))

    def call(self, signature: str, **inputs: Any) -> dict[str, np.ndarray]:
        """Call a signature of the loaded SavedModel."""
        outputs = self.loaded.signatures[signature](
            **{name: tf.constant(value) for name, value in inputs.items()}
        )
        return {name: value.numpy() for name, value in outputs.items()}


def make_item_table(
    folder: Path, names: tuple[str, ...] = PRESET["item"]
) -> ItemTable:
    """Return 200 items with vectors that prefer one of four directions."""
    rng = np.random.default_rng(1)
    ids = np.unique(rng.integers(INT64.min, INT64.max, 197))
    ids = np.unique(np.concatenate([ids, [INT64.min, INT64.max, -1, 1]]))
    styles = rng.normal(size=(4, DIM))
    vectors = styles[rng.integers(0, 4, len(ids))] + 0.6 * rng.normal(
        size=(len(ids), DIM)
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    codes = np.trunc(127 * vectors).astype(np.int8)
    codes[10:20] = 0  # Items without an embedding.
    features = {name: rng.choice(_IDS[name], len(ids)) for name in names}
    return ItemTable.write(folder, ids, codes, features, source="test")


def make_requests(
    item_table: ItemTable,
    count: int,
    seed: int,
    features: Features = PRESET,
) -> list[dict[str, np.ndarray]]:
    """Return ragged requests, with unknown ids, empty histories and zeros."""
    rng = np.random.default_rng(seed)
    requests = []
    for index in range(count):
        history = 0 if index % 5 == 4 else int(rng.integers(1, 15))
        candidates = int(rng.integers(1, 6))
        known = rng.integers(0, item_table.num_items, history)
        behaviors = item_table.item_ids[known].copy()
        of_behaviors = {
            f"behavior_{name}": item_table.features[name][known + 1].copy()
            for name in features["behavior"]
        }
        behaviors[rng.random(history) < 0.2] = 12345  # Unknown to the table.
        for values in of_behaviors.values():
            values[rng.random(history) < 0.1] = 777  # Out of vocabulary.
        ids = rng.choice(item_table.item_ids, candidates, replace=False)
        rows = item_table.rows(ids)
        requests.append(
            {
                "user_id": np.array([rng.integers(1, 1 << 60)]),
                **{
                    f"user_{name}": rng.choice([0, 5, -6, 7, 555], 1)
                    for name in features["user"]
                },
                "behavior_item_ids": behaviors,
                **of_behaviors,
                "candidate_item_ids": ids,
                **{
                    f"candidate_{name}": item_table.features[name][rows]
                    for name in features["item"]
                },
                "clicks": rng.integers(0, 2, candidates),
            }
        )
    return requests


def pad(
    rows: list[np.ndarray], width: int | None = None, left: bool = False
) -> np.ndarray:
    """Return ragged rows as int64 (B, width), padded with 0."""
    width = max(map(len, rows)) if width is None else width
    padded = np.zeros((len(rows), width), np.int64)
    for index, row in enumerate(rows):
        start = width - len(row) if left else 0
        padded[index, start : start + len(row)] = row
    return padded


def rank_inputs(
    requests: list[dict[str, np.ndarray]],
    left: bool = False,
    extra: int = 0,
) -> dict[str, np.ndarray]:
    """Return the inputs of `rank`, padded on a side of the history."""
    longest = max(len(r["behavior_item_ids"]) for r in requests) + extra
    inputs = {}
    for name in requests[0]:
        values = [request[name] for request in requests]
        if name.startswith("user_"):
            inputs[name] = np.concatenate(values)
        elif name.startswith("behavior_"):
            inputs[name] = pad(values, longest, left)
    candidates = [request["candidate_item_ids"] for request in requests]
    return inputs | {"candidate_item_ids": pad(candidates)}


def rank_request(request: dict[str, np.ndarray]) -> RankRequest:
    """Return a request as the client takes it."""

    def named(prefix: str, *others: str) -> dict[str, np.ndarray]:
        return {
            name.removeprefix(prefix): values
            for name, values in request.items()
            if name.startswith(prefix) and name not in others
        }

    return RankRequest(
        user_id=int(request["user_id"][0]),
        candidate_item_ids=request["candidate_item_ids"],
        behavior_item_ids=request["behavior_item_ids"],
        user={
            name: int(value[0])
            for name, value in named("user_", "user_id").items()
        },
        behaviors=named("behavior_", "behavior_item_ids"),
    )


def to_example(request: dict[str, np.ndarray]) -> bytes:
    """Return a request as a serialized Example."""
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                name: tf.train.Feature(
                    float_list=tf.train.FloatList(value=value.tolist())
                )
                if value.dtype.kind == "f"
                else tf.train.Feature(
                    int64_list=tf.train.Int64List(value=value.tolist())
                )
                for name, value in request.items()
            }
        )
    ).SerializeToString()


def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, Any]:
    """A transform with learned vocabularies kept in asset files."""
    import tensorflow_transform as tft

    from muse_keras.tensorflow import feature_matches, newest_mask

    dense = {name: tf.sparse.to_dense(value) for name, value in inputs.items()}

    def learn(name: str, *values: Any) -> Any:
        flat = tf.concat([tf.reshape(v, [-1]) for v in values], axis=0)
        return tft.vocabulary(
            tf.boolean_mask(flat, flat != 0), vocab_filename=name
        )

    def apply(values: Any, vocabulary: Any) -> Any:
        index = tft.apply_vocabulary(values, vocabulary, num_oov_buckets=1)
        return tf.where(values == 0, tf.zeros_like(index), index + 1)

    def ragged(values: Any, keep: Any) -> Any:
        return tf.ragged.boolean_mask(values, keep).to_sparse()

    category = learn("item_category", dense["candidate_category"])
    behaviors = apply(dense["behavior_category"], category)
    candidates = apply(dense["candidate_category"], category)
    keep = newest_mask(dense["behavior_item_ids"], MAX_HISTORY)
    size = tft.experimental.get_vocabulary_size_by_name("item_category") + 2
    ids = inputs["candidate_item_ids"]
    given = tf.sparse.to_dense(
        ids.with_values(tf.ones_like(ids.values, tf.bool)), False
    )
    users = [f"user_{name}" for name in PRESET["user"]]
    # One vocabulary for all: each costs seconds of Beam.
    profile = learn("profile", *(dense[name] for name in users))
    others = {
        f"candidate_{name}": learn(f"item_{name}", dense[f"candidate_{name}"])
        for name in ("city", "province")
    }
    return {
        **{
            name: apply(tf.reshape(dense[name], [-1, 1]), profile)
            for name in users
        },
        "behavior_item_ids": ragged(dense["behavior_item_ids"], keep),
        "behavior_category": ragged(behaviors, keep),
        "candidate_item_ids": ids,
        "candidate_category": ragged(candidates, given),
        **{
            name: ragged(apply(dense[name], vocabulary), given)
            for name, vocabulary in others.items()
        },
        "candidate_category_matches": ragged(
            feature_matches(behaviors, keep, candidates, size), given
        ),
        "clicks": inputs["clicks"],
    }


def make_transform_output(
    requests: list[dict[str, np.ndarray]],
    folder: Path,
    preprocess: Callable[[dict[str, Any]], dict[str, Any]] = preprocessing_fn,
) -> Path:
    """Learn a transform graph from requests with Beam."""
    import apache_beam as beam
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam
    from tensorflow_transform.tf_metadata import schema_utils

    from tfx_pipeline import beam_internals

    beam_internals.spare_local_runs()

    schema = schema_utils.schema_from_feature_spec(
        {
            name: tf.io.VarLenFeature(
                tf.float32 if values.dtype.kind == "f" else tf.int64
            )
            for name, values in requests[0].items()
        }
    )
    metadata = tft.DatasetMetadata(schema)
    rows = [
        {name: values.tolist() for name, values in request.items()}
        for request in requests
    ]
    with (
        beam.Pipeline(runner="DirectRunner") as pipeline,
        tft_beam.Context(temp_dir=str(folder / "tmp")),
    ):
        data = pipeline | beam.Create(rows)
        transform_fn = (data, metadata) | tft_beam.AnalyzeDataset(preprocess)
        _ = transform_fn | tft_beam.WriteTransformFn(str(folder / "out"))
        _ = metadata | tft_beam.WriteMetadata(
            str(folder / "out" / "metadata"), pipeline
        )
    return folder / "out"


def read_vocabularies(
    transform_output: Path, features: Features = PRESET
) -> dict[str, np.ndarray]:
    """Return the vocabularies that a transform graph learned."""
    import tensorflow_transform as tft

    output = tft.TFTransformOutput(str(transform_output))

    def learned(name: str) -> np.ndarray:
        found = output.vocabulary_by_name(name)
        return np.array([int(value) for value in found], np.int64)

    return {
        f"user_{name}": learned(
            "profile" if features is PRESET else f"user_{name}"
        )
        for name in features["user"]
    } | {f"item_{name}": learned(f"item_{name}") for name in features["item"]}


def feature_options(
    vocabularies: dict[str, np.ndarray], features: Features = PRESET
) -> dict[str, Any]:
    """Return a ranker's arguments about features."""
    sizes = {name: len(ids) + 2 for name, ids in vocabularies.items()}
    return {
        "user_sizes": {
            name: sizes[f"user_{name}"] for name in features["user"]
        },
        "item_sizes": {
            name: sizes[f"item_{name}"] for name in features["item"]
        },
        "behavior_features": features["behavior"],
        "matches": features["matches"],
    }


def make_model(
    kind: str,
    item_table: ItemTable,
    vocabularies: dict[str, np.ndarray],
    spare_rows: int = 0,
    features: Features = PRESET,
) -> Any:
    """Return a ranker with random weights and its table assigned."""
    import keras

    from muse_keras.models import DIN, MUSE

    keras.utils.set_random_seed(3)
    options: dict[str, Any] = {
        "num_items": item_table.num_items,
        **feature_options(vocabularies, features),
        "vector_dim": DIM,
        "embedding_dim": 8,
        "recent": 3,
        "num_tiers": 10,
        "hidden_units": (16, 8),
        "spare_rows": spare_rows,
    }
    model = MUSE(k=K, **options) if kind == "muse" else DIN(**options)
    model.table.assign(item_table)
    rng = np.random.default_rng(4)
    for variable in model.trainable_variables:
        shape = tuple(variable.shape)
        variable.assign(rng.normal(0.0, 0.4, shape).astype("float32"))
    return model


def make_world(folder: Path, features: Features = PRESET) -> World:
    """Export a small world with every signature into an empty folder.

    The transform of other features than the preset's is the product's.
    """
    from serving.export import UserCacheConfig, export_saved_model
    from serving.export.feature_names import single_categories
    from tfx_pipeline import preprocessing

    preprocess = preprocessing_fn
    if features is not PRESET:
        config = {
            "features": single_categories(**features).model_dump(mode="json"),
            "max_history": MAX_HISTORY,
            "vocabulary_size": 100,
            "vocabulary_frequency_threshold": 1,
        }
        preprocess = functools.partial(
            preprocessing.preprocessing_fn, custom_config=config
        )
    item_table = make_item_table(folder / "table", features["item"])
    requests = make_requests(item_table, 40, 5, features)
    transform_output = make_transform_output(requests, folder, preprocess)
    vocabularies = read_vocabularies(transform_output, features)
    model = make_model("muse", item_table, vocabularies, SPARE_ROWS, features)
    export = export_saved_model(
        folder / "muse" / "1",
        model=model,
        item_table=item_table,
        learned=vocabularies,
        max_history=MAX_HISTORY,
        transform_output=transform_output,
        warmup_examples=[to_example(r) for r in requests[:2]],
        source={"run": "test"},
        user_cache=UserCacheConfig(users=16, ways=4, max_length=1100),
    )
    return World(
        features=features,
        item_table=item_table,
        model=model,
        vocabularies=vocabularies,
        transform_output=transform_output,
        export=export,
    )
