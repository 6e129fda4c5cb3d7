"""Steps of the `growth` benchmark that run in a process of their own.

Each process does one step at one size, so that its peak memory is that step's.
"""

from __future__ import annotations

import contextlib
import pathlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.remote import serve

CHUNK = 100_000
WIDTH, DIM = 32, 128
CANDIDATES = 50
IMPRESSIONS_OF_USER = 200
SHOWN_TO_USER = 14


@contextlib.contextmanager
def _measured(facts: dict[str, Any]) -> Iterator[None]:
    """Add CPU seconds, and memory before and at the peak, to the facts.

    Pages of mapped files do not count: the kernel can drop them.
    """
    seen, done = [_anonymous_mb()], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            seen.append(_anonymous_mb())

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.process_time()
    try:
        yield
    finally:
        facts["cpu_s"] = round(time.process_time() - start, 1)
        done.set()
        thread.join()
    facts |= {"before_mb": seen[0], "peak_mb": max(seen)}


def _anonymous_mb() -> int:
    status = pathlib.Path("/proc/self/status").read_text()
    line = next(li for li in status.splitlines() if li.startswith("RssAnon"))
    return int(line.split()[1]) >> 10


def _chunks(size: int) -> Iterator[tuple[np.random.Generator, int, int]]:
    for start in range(0, size, CHUNK):
        yield np.random.default_rng(start), start, min(CHUNK, size - start)


def ingest(folder: str, size: int) -> dict[str, Any]:
    """Join raw tables of about `size` impressions into Examples."""
    from benchmarks import ingest
    from muse_tools.datasets import synth

    root = pathlib.Path(folder)
    options = synth.Options(
        users=size // SHOWN_TO_USER, items=100_000, search_events=0
    )
    made, _ = synth.generate(root / "raw", options)
    join = ingest.Join(root / "raw", root / "joined")
    facts: dict[str, Any] = {}
    with _measured(facts):
        join()
    shown = sum(split["impressions"] for split in made["splits"].values())
    files = (root / "raw").rglob("*.parquet")
    raw = sum(file.stat().st_size for file in files)
    return {**facts, "impressions": shown, "data_mb": raw >> 20}


def table(folder: str, size: int) -> dict[str, Any]:
    """Join raw tables of `size` items into an item table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from muse_tools.datasets import raw_tables
    from tfx_pipeline.components import item_table_gen

    root = pathlib.Path(folder)
    (root / "raw").mkdir()
    names = ["205", "206", "213", "214"]
    features = pa.schema([(name, pa.int64()) for name in names])
    vectors = pa.schema([("205", pa.int64()), ("205_c", pa.list_(pa.int8()))])
    with (
        pq.ParquetWriter(root / "raw" / "item_features.parquet", features) as f,
        pq.ParquetWriter(
            root / "raw" / "scl_embedding_int8_p90.parquet",
            vectors,
            use_dictionary=False,
        ) as v,
    ):
        for generator, start, rows in _chunks(size):
            # A bijection: every id once, in no order.
            ids = np.arange(start + 1, start + rows + 1)
            ids = (ids * 0x9E3779B97F4A7C15 % 2**64).astype(np.uint64)
            ids = pa.array(ids.view(np.int64))
            columns = generator.integers(1, 1_000, (3, rows))
            f.write_table(pa.table([ids, *columns], schema=features))
            codes = generator.integers(-127, 128, rows * DIM, dtype=np.int8)
            ends = np.arange(0, len(codes) + 1, DIM, dtype=np.int32)
            lists = pa.ListArray.from_arrays(ends, codes)
            v.write_table(pa.table([ids, lists], schema=vectors))
    facts: dict[str, Any] = {}
    with _measured(facts):
        made = item_table_gen.build_item_table(
            raw_tables.RawTables.open(root / "raw"),
            root / "table",
            root / "rejected",
        )
    files = made.manifest["files"].values()
    return {**facts, "data_mb": sum(f["bytes"] for f in files) >> 20}


def embed(folder: str, size: int) -> dict[str, Any]:
    """Embed the content of `size` items with a small tower."""
    import apache_beam as beam
    import tensorflow as tf
    from tfx.v1.types import standard_artifacts

    from muse_tools.datasets.item_content import ItemContentWriter
    from tfx_pipeline.components import artifacts
    from tfx_pipeline.components.item_embedder import ItemEmbedder

    root = pathlib.Path(folder)
    content = root / "content" / artifacts.CONTENT_DIR
    with ItemContentWriter(content, {"image": WIDTH}) as writer:
        for generator, start, rows in _chunks(size):
            vectors = generator.standard_normal((rows, WIDTH), np.float32)
            writer.add(
                np.arange(start + 1, start + rows + 1), {"image": vectors}
            )
    tower = tf.Module()
    tower.weights = tf.Variable(tf.random.normal([WIDTH, DIM], seed=0))

    @tf.function(
        input_signature=[tf.TensorSpec([None, WIDTH], tf.float32, "image")]
    )
    def embed_items(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding": tf.nn.l2_normalize(image @ tower.weights, axis=1)}

    tf.saved_model.save(
        tower,
        str(root / "model" / "Format-Serving"),
        signatures={"embed_items": embed_items},
    )
    given = {
        "model": standard_artifacts.Model(),
        "item_content": artifacts.ItemContentArtifact(),
        "embeddings": artifacts.ItemEmbeddingsArtifact(),
    }
    for name, folder_name in zip(
        given, ("model", "content", "embeddings"), strict=True
    ):
        given[name].uri = str(root / folder_name)
    facts: dict[str, Any] = {}
    with _measured(facts):
        ItemEmbedder.test_call(**given, beam_pipeline=beam.Pipeline())
    return {**facts, "data_mb": size * (4 * WIDTH + DIM) >> 20}


def evaluate(folder: str, size: int) -> dict[str, Any]:
    """Evaluate a model over `size` impressions, in slices."""
    import json

    import tensorflow as tf
    from google.protobuf import json_format
    from tfx.v1.types import standard_artifacts

    from schemas.ranking_schema import RankingSchema
    from tfx_pipeline import config, pipeline, tfx_internals
    from tfx_pipeline.components import recorded_evaluator

    root = pathlib.Path(folder)
    split = root / "examples" / "Split-eval"
    split.mkdir(parents=True)
    generator = np.random.default_rng(0)
    with tf.io.TFRecordWriter(str(split / "data.gz"), "GZIP") as writer:
        for start in range(0, size, CANDIDATES):
            ids = generator.integers(1, 1_000, CANDIDATES)
            columns = {
                "user_id": [start // IMPRESSIONS_OF_USER],
                "behavior_item_ids": [1] * int(generator.integers(0, 200)),
                "candidate_item_ids": ids,
                "candidate_popularity": generator.integers(0, 200, CANDIDATES),
                "candidate_topic": ids % 40,
                "clicks": generator.random(CANDIDATES) < ids / 1_000,
            }
            example = tf.train.Example()
            for name, values in columns.items():
                of = example.features.feature[name].int64_list.value
                of.extend(map(int, values))
            writer.write(example.SerializeToString())

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "examples")])
    def score(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        spec = {"candidate_item_ids": tf.io.VarLenFeature(tf.int64)}
        parsed = tf.io.parse_example(examples, spec)
        ids = tf.sparse.to_dense(parsed["candidate_item_ids"])
        # Different float32 for equal ids, as a ranker's scores are.
        noise = tf.random.stateless_uniform(tf.shape(ids), [1, 2])
        return {"click_probability": (tf.cast(ids, tf.float32) + noise) / 1001}

    tf.saved_model.save(
        tf.Module(),
        str(root / "model" / "Format-Serving"),
        signatures={"serving_default": score},
    )
    declared = RankingSchema.model_validate(
        {
            "name": "growth",
            "labels": {"click": {}},
            "features": {"item": {"topic": {}}},
            "log": {
                "train": ["2026-03-01", "2026-03-28"],
                "eval": ["2026-03-29", "2026-03-31"],
            },
        }
    )
    evaluator = config.EvaluatorConfig(
        slices=("history_length", "item_popularity", "item_topic"),
    )
    given = {
        "examples": standard_artifacts.Examples(),
        "model": standard_artifacts.Model(),
        "evaluation": standard_artifacts.ModelEvaluation(),
        "blessing": standard_artifacts.ModelBlessing(),
    }
    for name, artifact in given.items():
        artifact.uri = str(root / name)
    given["examples"].split_names = '["eval"]'
    context = tfx_internals.EvaluatorExecutor.Context(
        beam_pipeline_args=["--runner=DirectRunner"],
        tmp_dir=str(root / "tmp"),
        unique_id="1",
    )
    facts: dict[str, Any] = {}
    with _measured(facts):
        recorded_evaluator.Executor(context).Do(
            {name: [given[name]] for name in ("examples", "model")},
            {name: [given[name]] for name in ("evaluation", "blessing")},
            {
                "eval_config": json_format.MessageToJson(
                    pipeline.eval_config(evaluator, declared),
                    preserving_proto_field_name=True,
                ),
                "example_splits": json.dumps(["eval"]),
                "module_path": "tfx_pipeline.evaluation.extractors",
                "fairness_indicator_thresholds": "null",
            },
        )
    # What GAUC's combiner held before: 20 bytes in each of four slices.
    return {**facts, "data_mb": 4 * 20 * size >> 20}


if __name__ == "__main__":
    serve(
        {
            "ingest": ingest,
            "table": table,
            "embed": embed,
            "evaluate": evaluate,
        }
    )
