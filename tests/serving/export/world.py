"""One small world: a table, a ranker, a transform graph and its export."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from muse_keras.tables import ItemTable

MAX_HISTORY = 6
K = 4
DIM = 16
SPARE_ROWS = 2048
INT64 = np.iinfo(np.int64)
PROFILE_FIELDS = tuple(f"user_profile_{i}" for i in range(1, 6))


@dataclasses.dataclass(frozen=True)
class World:
    """What the tests share.

    Attributes:
        item_table: the table; ids reach both ends of int64.
        model: a MUSE ranker with random weights.
        vocabularies: raw ids by field, in the order of the transform graph.
        transform_output: folder of the transform graph.
        export: the `Export`.
        loaded: the SavedModel, loaded again.
    """

    item_table: ItemTable
    model: Any
    vocabularies: dict[str, np.ndarray]
    transform_output: Path
    export: Any
    loaded: Any

    def call(self, signature: str, **inputs: Any) -> dict[str, np.ndarray]:
        """Call a signature of the loaded SavedModel."""
        outputs = self.loaded.signatures[signature](
            **{name: tf.constant(value) for name, value in inputs.items()}
        )
        return {name: value.numpy() for name, value in outputs.items()}


def make_item_table(folder: Path) -> ItemTable:
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
    features = {
        "category": rng.choice([11, -12, 13, 14, 15, 0], len(ids)),
        "city": rng.choice([21, 22, 23, 999], len(ids)),
        "province": rng.choice([31, -32], len(ids)),
    }
    return ItemTable.write(folder, ids, codes, features, source="test")


def make_requests(
    item_table: ItemTable, count: int, seed: int
) -> list[dict[str, np.ndarray]]:
    """Return ragged requests, with unknown ids, empty histories and zeros."""
    rng = np.random.default_rng(seed)
    requests = []
    for index in range(count):
        history = 0 if index % 5 == 4 else int(rng.integers(1, 15))
        candidates = int(rng.integers(1, 6))
        known = rng.integers(0, item_table.num_items, history)
        behaviors = item_table.item_ids[known].copy()
        categories = item_table.features["category"][known + 1].copy()
        behaviors[rng.random(history) < 0.2] = 12345  # Unknown to the table.
        categories[rng.random(history) < 0.1] = 777  # Out of vocabulary.
        ids = rng.choice(item_table.item_ids, candidates, replace=False)
        rows = item_table.rows(ids)
        requests.append(
            {
                "user_id": np.array([rng.integers(1, 1 << 60)]),
                "user_profile": rng.choice([0, 5, -6, 7, 555], 5),
                "behavior_item_ids": behaviors,
                "behavior_category_ids": categories,
                "candidate_item_ids": ids,
                "candidate_category": item_table.features["category"][rows],
                "candidate_city": item_table.features["city"][rows],
                "candidate_province": item_table.features["province"][rows],
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
    return {
        "user_id": np.concatenate([r["user_id"] for r in requests]),
        "user_profile": np.stack([r["user_profile"] for r in requests]),
        "behavior_item_ids": pad(
            [r["behavior_item_ids"] for r in requests], longest, left
        ),
        "behavior_category_ids": pad(
            [r["behavior_category_ids"] for r in requests], longest, left
        ),
        "candidate_item_ids": pad([r["candidate_item_ids"] for r in requests]),
    }


def to_example(request: dict[str, np.ndarray]) -> bytes:
    """Return a request as a serialized Example."""
    values = dict(request)
    profile = values.pop("user_profile")
    values |= {
        field: profile[i : i + 1] for i, field in enumerate(PROFILE_FIELDS)
    }
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                name: tf.train.Feature(
                    int64_list=tf.train.Int64List(value=value.tolist())
                )
                for name, value in values.items()
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

    category = learn("category", dense["candidate_category"])
    behaviors = apply(dense["behavior_category_ids"], category)
    candidates = apply(dense["candidate_category"], category)
    keep = newest_mask(dense["behavior_item_ids"], MAX_HISTORY)
    size = tft.experimental.get_vocabulary_size_by_name("category") + 2
    ids = inputs["candidate_item_ids"]
    given = tf.sparse.to_dense(
        ids.with_values(tf.ones_like(ids.values, tf.bool)), False
    )
    profile = [tf.reshape(dense[name], [-1, 1]) for name in PROFILE_FIELDS]
    return {
        # One vocabulary for all fields: each costs seconds of Beam.
        "user_profile": apply(
            tf.concat(profile, axis=1), learn("profile", *profile)
        ),
        "behavior_item_ids": ragged(dense["behavior_item_ids"], keep),
        "behavior_categories": ragged(behaviors, keep),
        "candidate_item_ids": ids,
        "candidate_categories": ragged(candidates, given),
        "candidate_cities": ragged(
            apply(
                dense["candidate_city"], learn("city", dense["candidate_city"])
            ),
            given,
        ),
        "candidate_provinces": ragged(
            apply(
                dense["candidate_province"],
                learn("province", dense["candidate_province"]),
            ),
            given,
        ),
        "candidate_category_matches": ragged(
            feature_matches(behaviors, keep, candidates, size), given
        ),
        "clicks": inputs["clicks"],
    }


def make_transform_output(
    requests: list[dict[str, np.ndarray]], folder: Path
) -> Path:
    """Learn a transform graph from requests with Beam."""
    import apache_beam as beam
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam
    from tensorflow_transform.tf_metadata import schema_utils

    from tfx_pipeline import beam_internals

    beam_internals.spare_local_runs()

    names = [*PROFILE_FIELDS, *requests[0]]
    names.remove("user_profile")
    schema = schema_utils.schema_from_feature_spec(
        {name: tf.io.VarLenFeature(tf.int64) for name in names}
    )
    metadata = tft.DatasetMetadata(schema)
    rows = [
        {
            **{name: r[name].tolist() for name in r if name != "user_profile"},
            **{
                f: [int(r["user_profile"][i])]
                for i, f in enumerate(PROFILE_FIELDS)
            },
        }
        for r in requests
    ]
    with (
        beam.Pipeline(runner="DirectRunner") as pipeline,
        tft_beam.Context(temp_dir=str(folder / "tmp")),
    ):
        data = pipeline | beam.Create(rows)
        transform_fn = (data, metadata) | tft_beam.AnalyzeDataset(
            preprocessing_fn
        )
        _ = transform_fn | tft_beam.WriteTransformFn(str(folder / "out"))
        _ = metadata | tft_beam.WriteMetadata(
            str(folder / "out" / "metadata"), pipeline
        )
    return folder / "out"


def read_vocabularies(transform_output: Path) -> dict[str, np.ndarray]:
    """Return the vocabularies that a transform graph learned."""
    import tensorflow_transform as tft

    output = tft.TFTransformOutput(str(transform_output))
    learned = {
        name: np.array(
            [int(v) for v in output.vocabulary_by_name(name)], np.int64
        )
        for name in ("profile", "category", "city", "province")
    }
    profile = learned.pop("profile")
    return learned | dict.fromkeys(PROFILE_FIELDS, profile)


def feature_options(vocabularies: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return a ranker's arguments about features."""
    sizes = {field: len(ids) + 2 for field, ids in vocabularies.items()}
    return {
        "user_sizes": {field: sizes[field] for field in PROFILE_FIELDS},
        "item_sizes": {
            field: sizes[field] for field in ("category", "city", "province")
        },
        "behavior_features": ("category",),
        "matches": ("category",),
    }


def make_model(
    kind: str,
    item_table: ItemTable,
    vocabularies: dict[str, np.ndarray],
    spare_rows: int = 0,
) -> Any:
    """Return a ranker with random weights and its table assigned."""
    import keras

    from muse_keras.models import DIN, MUSE

    keras.utils.set_random_seed(3)
    options: dict[str, Any] = {
        "num_items": item_table.num_items,
        **feature_options(vocabularies),
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


def make_world(folder: Path) -> World:
    """Export a small world with every signature into an empty folder."""
    from serving.export import UserCacheConfig, export_saved_model

    item_table = make_item_table(folder / "table")
    requests = make_requests(item_table, 40, seed=5)
    transform_output = make_transform_output(requests, folder)
    vocabularies = read_vocabularies(transform_output)
    model = make_model("muse", item_table, vocabularies, SPARE_ROWS)
    export = export_saved_model(
        folder / "muse" / "1",
        model=model,
        item_table=item_table,
        vocabularies=vocabularies,
        max_history=MAX_HISTORY,
        transform_output=transform_output,
        warmup_examples=[to_example(r) for r in requests[:2]],
        source={"run": "test"},
        user_cache=UserCacheConfig(users=16, ways=4, max_length=1100),
    )
    return World(
        item_table=item_table,
        model=model,
        vocabularies=vocabularies,
        transform_output=transform_output,
        export=export,
        loaded=tf.saved_model.load(str(export.path)),
    )
