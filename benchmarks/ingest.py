"""Raw tables to request-grouped Examples, against DuckDB doing the same join.

Ours is RequestExampleGen's executor with the product's default Beam options:
read, validate, join by item and by user, group into requests, write gzip
TFRecord files of `tf.train.Example` and the rejected rows. DuckDB, in this
process with as many threads, applies the same rules, joins and groups, and
writes Snappy Parquet; it keeps no rejected rows and counts none. Both read the
same Parquet tables: synthetic users with histories of up to 1,000 behaviors,
some rows of every kind broken.

They agree when every request of either is a request of the other with the same
profile, history, candidates, labels and popularity: both outputs are read back,
sorted by user and request, and compared column by column, every value.

The floor is the time to read the input's bytes and to write the output's, by
plain file copies.

Facts of the full run: impressions per second; peak resident memory of a fresh
process and its children at 1 and 10 times the users (the tenfold tables are
the same users under ten different ids); Examples per second of TFX's Transform
component on the Examples, on one core: the whole run, and what more Examples
add to it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import Any

from benchmarks import harness
from muse_tools.datasets import table_writer

MAX_CANDIDATES = 64
FULL_USERS, QUICK_USERS = 10_000, 500
FULL_ITEMS, QUICK_ITEMS = 100_000, 20_000
BROKEN = 20
SAMPLE_SECONDS = 0.02
SPLITS = {"train": "train", "eval": "test"}
PROJECT = pathlib.Path(__file__).resolve().parents[1]


def main() -> None:
    """Times the join and the readers against DuckDB and checks the rows."""
    parser = harness.parser(__doc__)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _child(*arguments.child)
        return
    harness.pin(arguments.threads)
    with tempfile.TemporaryDirectory(prefix="ingest-") as name:
        _run(pathlib.Path(name), arguments)


def _run(folder: pathlib.Path, arguments: argparse.Namespace) -> None:
    from muse_tools.datasets import synth

    users = QUICK_USERS if arguments.quick else FULL_USERS
    items = QUICK_ITEMS if arguments.quick else FULL_ITEMS
    raw = folder / "one"
    harness.say(f"ingest: making tables of {users:,} users")
    made, _ = synth.generate(
        raw,
        synth.Options(users=users, items=items, broken=BROKEN, search_events=0),
    )
    ours, theirs = folder / "ours", folder / "duckdb"
    peer = _DuckDB(raw / "raw", theirs, arguments.threads)
    join = Join(raw, ours)
    harness.say("ingest: joining")
    times = harness.alternate(
        {"ours": harness.timed(join), "duckdb": harness.timed(peer)}, warmup=1
    )
    harness.say("ingest: comparing")
    report = harness.Report("ingest", arguments)
    impressions = sum(s["impressions"] for s in made["splits"].values())
    case = f"{users:,} users, {impressions:,} impressions"
    report.add(
        case,
        times["ours"],
        {"duckdb": times["duckdb"]},
        agree=all(_same(ours, theirs, split) for split in SPLITS),
        agree_by="every value of every request, sorted by user and request",
        floor_ms=_floor(raw / "raw", ours / "examples"),
    )
    report.fact(
        case,
        impressions_per_second=round(1e3 * impressions / times["ours"]),
        duckdb_impressions_per_second=round(
            1e3 * impressions / times["duckdb"]
        ),
        output_mb=round(_size(ours / "examples") / 1e6, 1),
        duckdb_output_mb=round(_size(theirs) / 1e6, 1),
    )
    if not arguments.quick:
        _memory_facts(report, folder)
        _transform_facts(report, ours)
    report.close()


class Join:
    """RequestExampleGen as TFX runs it."""

    def __init__(self, raw: pathlib.Path, out: pathlib.Path) -> None:
        self._raw = raw
        self._out = out

    def __call__(self) -> None:
        """Runs it once, into an emptied folder."""
        import apache_beam as beam
        from tfx.v1.types import standard_artifacts

        from tfx_pipeline.components.request_example_gen import (
            RequestExampleGen,
        )

        shutil.rmtree(self._out, ignore_errors=True)
        artifact = standard_artifacts.Examples()
        artifact.uri = str(self._out / "examples")
        RequestExampleGen.test_call(
            artifact,
            raw_dir=str(self._raw),
            raw_fingerprint="",
            rejected_dir=str(self._out / "rejected"),
            max_candidates=MAX_CANDIDATES,
            max_rejected_fraction=0.5,
            beam_pipeline=beam.Pipeline(argv=_beam_args()),
        )


def _beam_args() -> list[str]:
    from tfx_pipeline import beam_config

    return beam_config.BeamConfig().flags()


ITEM_QUERY = """
CREATE OR REPLACE TEMP TABLE items AS
SELECT "205" AS item_id,
    arg_min("206", file_row_number) AS category,
    arg_min("213", file_row_number) AS city,
    arg_min("214", file_row_number) AS province
FROM read_parquet('{raw}/item_features.parquet', file_row_number = true)
WHERE "205" <> 0 AND "206" IS NOT NULL AND "213" IS NOT NULL
    AND "214" IS NOT NULL
GROUP BY "205";
"""
SAMPLE_QUERY = """
CREATE OR REPLACE TEMP TABLE {split}_shown AS
SELECT "129_1" AS user_id, "205" AS item_id, file_row_number AS place,
    CAST(label_0[2] AS BIGINT) AS click, category, city, province
FROM read_parquet('{raw}/{table}_samples.parquet', file_row_number = true)
JOIN items ON item_id = "205"
WHERE "129_1" <> 0 AND len(label_0) = 2 AND label_0[1] IN (0, 1)
    AND label_0[1] + label_0[2] = 1;
"""
POPULARITY_QUERY = """
CREATE OR REPLACE TEMP TABLE popularity AS
SELECT item_id, count(*) AS shown FROM train_shown GROUP BY item_id;
"""
REQUEST_QUERY = """
COPY (
    WITH numbered AS (
        SELECT *, (row_number() OVER (PARTITION BY user_id ORDER BY place) - 1)
            // {max_candidates} AS request
        FROM {split}_shown
    ),
    requests AS (
        SELECT user_id, request,
            list(item_id ORDER BY place) AS candidate_item_ids,
            list(category ORDER BY place) AS candidate_category,
            list(city ORDER BY place) AS candidate_city,
            list(province ORDER BY place) AS candidate_province,
            list(coalesce(shown, 0) ORDER BY place) AS candidate_popularity,
            list(click ORDER BY place) AS clicks
        FROM numbered LEFT JOIN popularity USING (item_id)
        GROUP BY user_id, request
    ),
    valid AS (
        SELECT "129_1" AS user_id, file_row_number AS place,
            "130_1" AS user_profile_1, "130_2" AS user_profile_2,
            "130_3" AS user_profile_3, "130_4" AS user_profile_4,
            "130_5" AS user_profile_5, "150_2_180" AS behavior_item_ids,
            "151_2_180" AS behavior_category
        FROM read_parquet(
            '{raw}/{table}_user_features.parquet', file_row_number = true
        )
        WHERE "129_1" <> 0 AND "130_1" IS NOT NULL AND "130_2" IS NOT NULL
            AND "130_3" IS NOT NULL AND "130_4" IS NOT NULL
            AND "130_5" IS NOT NULL AND len("150_2_180") = len("151_2_180")
    ),
    first AS (SELECT user_id, min(place) AS place FROM valid GROUP BY user_id)
    SELECT valid.* EXCLUDE (place), requests.* EXCLUDE (user_id)
    FROM requests JOIN first USING (user_id) JOIN valid USING (user_id, place)
) TO '{out}/{split}.parquet' (FORMAT parquet, COMPRESSION snappy);
"""


class _DuckDB:
    """The same join in SQL."""

    def __init__(
        self, raw: pathlib.Path, out: pathlib.Path, threads: int
    ) -> None:
        import duckdb

        self._connection = duckdb.connect()
        self._connection.execute(f"SET threads = {threads}")
        self._connection.execute("SET preserve_insertion_order = false")
        out.mkdir(parents=True)
        values = {"raw": raw, "out": out, "max_candidates": MAX_CANDIDATES}
        per_split = [
            {**values, "split": s, "table": t} for s, t in SPLITS.items()
        ]
        self._queries = [
            ITEM_QUERY.format(**values),
            *(SAMPLE_QUERY.format(**v) for v in per_split),
            POPULARITY_QUERY,
            *(REQUEST_QUERY.format(**v) for v in per_split),
        ]

    def __call__(self) -> None:
        """Runs it once."""
        for query in self._queries:
            self._connection.execute(query)


def _same(ours: pathlib.Path, theirs: pathlib.Path, split: str) -> bool:
    """Tells whether both wrote the same requests."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = _read_examples(ours / "examples" / f"Split-{split}")
    expected = pq.read_table(theirs / f"{split}.parquet")
    user_ids = expected.column("user_id").to_numpy()
    order = np.lexsort((expected.column("request").to_numpy(), user_ids))
    expected = expected.take(pa.array(order))
    # Ours has a user's requests one after the other, in order.
    order = np.argsort(
        found.column("user_id").combine_chunks().flatten().to_numpy(),
        kind="stable",
    )
    found = found.take(pa.array(order))
    if found.num_rows != expected.num_rows:
        return False
    for name in found.column_names:
        wanted = expected.column(name).combine_chunks()
        got = found.column(name).combine_chunks()
        lengths = got.value_lengths().to_numpy()
        if pa.types.is_list(wanted.type):
            if not np.array_equal(lengths, wanted.value_lengths().to_numpy()):
                return False
            wanted = wanted.flatten()
        elif (lengths != 1).any():
            return False
        if not np.array_equal(
            got.flatten().to_numpy(), wanted.to_numpy(zero_copy_only=False)
        ):
            return False
    return set(found.column_names) == set(expected.column_names) - {"request"}


def _read_examples(folder: pathlib.Path) -> Any:
    """Returns all Examples of a split as an Arrow table of lists."""
    import pyarrow as pa
    import tensorflow as tf
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tfx_bsl.coders import example_coder

    from schemas.ranking_schema import preset
    from tfx_pipeline.examples_schema import request_schema

    schema = text_format.Parse(
        request_schema(preset("taobao_mm")), schema_pb2.Schema()
    )
    decoder = example_coder.ExamplesToRecordBatchDecoder(
        schema.SerializeToString()
    )
    files = sorted(str(path) for path in folder.iterdir())
    records = tf.data.TFRecordDataset(files, compression_type="GZIP")
    return pa.Table.from_batches(
        [
            decoder.DecodeBatch(batch.numpy().tolist())
            for batch in records.batch(1024)
        ]
    )


def _size(folder: pathlib.Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _floor(raw: pathlib.Path, examples: pathlib.Path) -> float:
    """Returns the milliseconds to read the input and write the output."""
    inputs = [path for path in raw.iterdir() if path.is_file()]
    data = [p.read_bytes() for p in examples.rglob("*") if p.is_file()]

    def copy() -> None:
        for path in inputs:
            path.read_bytes()
        with tempfile.TemporaryFile(dir=raw.parent) as file:
            for part in data:
                file.write(part)

    return harness.alternate({"copy": harness.timed(copy)})["copy"]


def _multiply(raw: pathlib.Path, target: pathlib.Path, times: int) -> None:
    """Writes tables with every user under several ids, and the same items."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from muse_tools.datasets import raw_tables

    tables = raw_tables.RawTables.open(raw)
    for name, table in tables.tables.items():
        if raw_tables.USER_ID not in table.schema.names:
            (target / "raw").mkdir(parents=True, exist_ok=True)
            shutil.copy(table.paths[0], target / "raw")
            continue
        place = table.schema.get_field_index(raw_tables.USER_ID)
        path = target / "raw" / f"{name}.parquet"
        with table_writer.TableWriter(path, table.schema) as writer:
            for copy in range(times):
                for batch in table.iter_batches():
                    columns = list(batch.columns)
                    columns[place] = pc.bit_wise_xor(
                        columns[place], pa.scalar(copy << 20, pa.int64())
                    )
                    writer.write(
                        pa.RecordBatch.from_arrays(columns, schema=batch.schema)
                    )


def _peak_mb(child: list[str]) -> int:
    """Returns the peak resident MiB of a child of ours and its children."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.ingest", "--child", *child],
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(SAMPLE_SECONDS):
            peak = max(peak, _tree_bytes(process.pid))

    thread = threading.Thread(target=watch)
    thread.start()
    _, errors = process.communicate()
    done.set()
    thread.join()
    if process.returncode:
        raise RuntimeError(errors.decode()[-2000:])
    return peak >> 20


def _tree_bytes(pid: int) -> int:
    """Returns the resident bytes of a process and all its descendants."""
    total = 0
    waiting = [pid]
    while waiting:
        pid = waiting.pop()
        # Processes may end while they are looked at.
        with contextlib.suppress(OSError, ValueError, IndexError):
            statm = pathlib.Path(f"/proc/{pid}/statm").read_text()
            total += int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    return total


def _memory_facts(report: harness.Report, folder: pathlib.Path) -> None:
    """Reports peak memory of a fresh run, and with ten times the users."""
    harness.say("ingest: measuring memory")
    _multiply(folder / "one", folder / "ten", 10)
    once, tenfold = (
        _peak_mb(["join", str(folder / name), str(folder / "child")])
        for name in ("one", "ten")
    )
    report.fact(
        "peak memory of the process tree",
        rss_mb=once,
        rss_mb_10x_users=tenfold,
        growth=round(tenfold / once, 3),
    )


def _transform_facts(report: harness.Report, ours: pathlib.Path) -> None:
    """Reports Examples per second and core of the Transform component."""
    small = ours.with_name("small")
    for path in (ours / "examples").rglob("*-00000-of-*.gz"):
        copy = small / path.relative_to(ours)
        copy.parent.mkdir(parents=True)
        shutil.copy(path, copy)
    result = ours / "transform.json"
    harness.say("ingest: transforming")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.ingest", "--child"),
            *("transform", str(ours), str(result)),
        ],
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"Transform failed:\n{done.stderr[-2000:]}")
    seconds = json.loads(result.read_text())
    counts = {}
    for folder in (small, ours):
        batches = [
            _read_examples(folder / "examples" / f"Split-{split}")
            for split in SPLITS
        ]
        clicks = [batch.column("clicks").combine_chunks() for batch in batches]
        counts[folder.name] = {
            "requests": sum(map(len, clicks)),
            "impressions": sum(len(column.flatten()) for column in clicks),
        }

    def rates(taken: float, done: Mapping[str, int]) -> dict[str, int]:
        return {
            "examples_per_second_per_core": round(done["requests"] / taken),
            "impressions_per_second_per_core": round(
                done["impressions"] / taken
            ),
        }

    report.fact(
        f"Transform, {counts['ours']['requests']:,} Examples, one core",
        seconds=round(seconds["ours"], 1),
        **rates(seconds["ours"], counts["ours"]),
    )
    more = {k: n - counts["small"][k] for k, n in counts["ours"].items()}
    report.fact(
        "Transform, each further Example, one core",
        **rates(seconds["ours"] - seconds["small"], more),
    )


def _child(job: str, source: str, target: str) -> None:
    """Does one job in a process of its own."""
    if job == "join":
        harness.pin(2)
        Join(pathlib.Path(source), pathlib.Path(target))()
        shutil.rmtree(target)
    else:
        harness.pin(1)
        ours = pathlib.Path(source)
        small = ours.with_name("small")
        _transform(small)
        seconds = {path.name: _transform(path) for path in (small, ours)}
        pathlib.Path(target).write_text(json.dumps(seconds))


def _transform(source: pathlib.Path) -> float:
    """Runs TFX's Transform component; returns its seconds."""
    from tfx import v1 as tfx

    from schemas.ranking_schema import preset
    from tfx_pipeline import beam_internals, config
    from tfx_pipeline.examples_schema import request_schema
    from tfx_pipeline.tfx_internals import (
        artifact_utils,
        example_gen_pb2,
        examples_utils,
        proto_utils,
    )

    beam_internals.spare_local_runs()  # As the runner does.
    declared = preset("taobao_mm")
    artifacts = tfx.types.standard_artifacts
    executor = tfx.components.Transform.EXECUTOR_SPEC.executor_class
    folder = pathlib.Path(tempfile.mkdtemp(dir=source))
    examples = artifacts.Examples()
    examples.uri = str(source / "examples")
    examples.split_names = artifact_utils.encode_split_names(list(SPLITS))
    examples_utils.set_payload_format(
        examples, example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE
    )
    schema = artifacts.Schema()
    schema.uri = str(folder / "schema")
    (folder / "schema").mkdir(parents=True)
    (folder / "schema" / "schema.pbtxt").write_text(request_schema(declared))
    graph = artifacts.TransformGraph()
    graph.uri = str(folder / "graph")
    transformed = artifacts.Examples()
    transformed.uri = str(folder / "examples")
    context = executor.Context(
        beam_pipeline_args=_beam_args(),
        tmp_dir=str(folder / "tmp"),
        unique_id="1",
    )
    transform = executor(context)
    start = time.perf_counter()
    transform.Do(
        {"examples": [examples], "schema": [schema]},
        {
            "transform_graph": [graph],
            "transformed_examples": [transformed],
        },
        {
            "preprocessing_fn": ("tfx_pipeline.preprocessing.preprocessing_fn"),
            "module_file": None,
            "custom_config": json.dumps(
                {
                    **config.TransformConfig().model_dump(),
                    "features": declared.features.model_dump(mode="json"),
                }
            ),
            "disable_statistics": 1,
            "force_tf_compat_v1": 0,
            "splits_config": proto_utils.proto_to_json(
                tfx.proto.SplitsConfig(
                    analyze=["train"], transform=list(SPLITS)
                )
            ),
        },
    )
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
