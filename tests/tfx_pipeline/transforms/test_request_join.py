"""The Beam join against a row-by-row oracle in plain Python."""

from __future__ import annotations

import itertools
import json
import pathlib
import tempfile

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tfx.types import standard_artifacts

from muse_tools.datasets.errors import DataError
from schemas.ranking_schema import preset
from tests.tfx_pipeline.transforms import join_oracle as oracle
from tests.tfx_pipeline.transforms.join_oracle import (
    item_row,
    sample_row,
    user_row,
    vector_row,
)
from tfx_pipeline.components.request_example_gen import RequestExampleGen
from tfx_pipeline.transforms import (
    arrow_batches,
    item_join,
    request_join,
    shuffle_files,
)

pytestmark = pytest.mark.tf

LOWEST, HIGHEST = -(2**63), 2**63 - 1


def run(
    tables,
    folder,
    *,
    max_candidates=3,
    partitions=2,
    rows_per_group=4,
    max_rejected_fraction=1.0,
):
    """Runs RequestExampleGen's executor; returns what the oracle returns."""
    artifact = write_examples(
        tables,
        folder,
        max_candidates=max_candidates,
        partitions=partitions,
        rows_per_group=rows_per_group,
        max_rejected_fraction=max_rejected_fraction,
    )
    folder = pathlib.Path(folder)
    assert json.loads(artifact.split_names) == ["train", "eval"]
    examples = {
        split: read_examples(folder / "examples" / f"Split-{split}")
        for split in ("train", "eval")
    }
    return examples, *read_rejected(folder / "rejected")


def write_examples(
    tables,
    folder,
    *,
    max_candidates=3,
    partitions=2,
    rows_per_group=4,
    max_rejected_fraction=1.0,
):
    folder = pathlib.Path(folder)
    oracle.write(folder / "raw", tables, rows_per_group)
    artifact = standard_artifacts.Examples()
    artifact.uri = str(folder / "examples")
    RequestExampleGen.test_call(
        artifact,
        raw_dir=str(folder),
        raw_fingerprint="",
        rejected_dir=str(folder / "rejected"),
        max_candidates=max_candidates,
        max_rejected_fraction=max_rejected_fraction,
        join_partitions=partitions,
        beam_pipeline=beam.Pipeline(),
    )
    return artifact


def read_examples(split: pathlib.Path) -> list[dict[str, list[int]]]:
    files = sorted(str(path) for path in split.iterdir())
    return [
        parse(record.numpy())
        for record in tf.data.TFRecordDataset(files, compression_type="GZIP")
    ]


def parse(record: bytes) -> dict[str, list[int]]:
    features = tf.train.Example.FromString(record).features.feature
    return {
        name: list(feature.int64_list.value)
        for name, feature in features.items()
    }


def read_rejected(folder: pathlib.Path):
    rejected = []
    for path in sorted(folder.glob("*.parquet")):
        table = path.stem.rpartition("-")[0]
        kind = table.removeprefix("train_").removeprefix("eval_")
        for row in pq.read_table(path).to_pylist():
            wanted = {code: row[code] for code in oracle.SCHEMAS[kind]}
            rejected.append((table, row["reason"], wanted))
    counts = json.loads((folder / "counts.json").read_text())
    return rejected, counts


def in_any_order(rows):
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def check(tables, folder, **options):
    examples, rejected, counts = run(tables, folder, **options)
    wanted = oracle.join(tables, options.get("max_candidates", 3))
    for split in ("train", "eval"):
        assert in_any_order(examples[split]) == in_any_order(wanted[0][split])
    assert in_any_order(rejected) == in_any_order(wanted[1])
    assert counts == wanted[2]
    for split in ("train", "eval"):
        read = counts[f"read/{split}_samples"]
        refused = sum(
            value
            for key, value in counts.items()
            if key.startswith(f"rejected/{split}_samples/")
        )
        assert read == counts[f"joined/{split}_impressions"] + refused


@pytest.fixture
def broken():
    """Every kind of broken row, and rows at the edges of what is allowed."""
    return {
        "train_samples": [
            sample_row(LOWEST, 20, (0, 1)),
            sample_row(7, 21),
            sample_row(LOWEST, 22),
            sample_row(LOWEST, 20),
            sample_row(7, 20, (1, 1)),
            sample_row(7, 20, (0, 0)),
            sample_row(7, 20, (1,)),
            sample_row(7, 20, ()),
            sample_row(7, 20, (0, 1, 0)),
            sample_row(7, 20, (2, -1)),
            sample_row(7, 20, None),
            sample_row(7, 20, (None, 1)),
            sample_row(None, 20),
            sample_row(7, None),
            sample_row(0, 20),
            sample_row(7, 0),
            sample_row(7, 99),
            sample_row(98, 20),
            sample_row(98, 99, (1, 1)),
            sample_row(LOWEST, HIGHEST, (0, 1)),
            sample_row(LOWEST, 21),
            sample_row(7, 20),
            # This user's only row was rejected.
            sample_row(9, 21),
        ],
        "train_user_features": [
            user_row(7, (5, 0, 5), (1, 0, 1)),
            user_row(LOWEST, (), ()),
            user_row(9, (5, 6), (1,)),
            user_row(7, (6,), (1,), (9, 9, 9, 9, 9)),
            user_row(None),
            user_row(8, None, ()),
            user_row(8, (5, None), (1, 2)),
            user_row(8, (5,), (1,), (1, 2, None, 4, 5)),
            user_row(0),
            # In no impression at all.
            user_row(8, (1, 2, 3), (4, 5, 6)),
        ],
        "test_samples": [
            sample_row(7, 22),
            sample_row(7, 20, (0, 1)),
            sample_row(7, 23),
            # Known in train only.
            sample_row(LOWEST, 20),
        ],
        "test_user_features": [user_row(7, (5, 5, 8, 5), (1, 1, 2, 1))],
        "item_features": [
            item_row(20, -4, LOWEST, 0),
            item_row(21, 0, 0, 0),
            item_row(20, 8, 8, 8),
            item_row(22),
            item_row(None),
            item_row(24, None),
            item_row(0),
            item_row(23),
            item_row(HIGHEST),
            item_row(21, 9, 9, 9),
        ],
        "scl_embedding_int8_p90": [vector_row(20), vector_row(HIGHEST)],
    }


@pytest.mark.parametrize(
    ("max_candidates", "partitions", "rows_per_group"),
    [(1, 1, 100), (2, 3, 2), (64, 7, 3)],
)
def test_every_row_is_where_the_oracle_puts_it(
    broken, tmp_path, max_candidates, partitions, rows_per_group
):
    check(
        broken,
        tmp_path,
        max_candidates=max_candidates,
        partitions=partitions,
        rows_per_group=rows_per_group,
    )


def test_literal_examples(broken, tmp_path):
    """One request written out, so that oracle and join cannot both err."""
    examples, rejected, counts = run(broken, tmp_path, max_candidates=3)
    mine = [e for e in examples["train"] if e["user_id"] == [LOWEST]]
    assert sorted(mine, key=lambda e: -len(e["clicks"])) == [
        {
            "user_id": [LOWEST],
            **{f"user_profile_{i}": [i] for i in range(1, 6)},
            "behavior_item_ids": [],
            "behavior_category": [],
            "candidate_item_ids": [20, 22, 20],
            "candidate_category": [-4, 1, -4],
            "candidate_city": [LOWEST, 2, LOWEST],
            "candidate_province": [0, 3, 0],
            # 98's impression of item 20 has an item, hence counts.
            "candidate_popularity": [4, 1, 4],
            "clicks": [1, 0, 0],
        },
        {
            "user_id": [LOWEST],
            **{f"user_profile_{i}": [i] for i in range(1, 6)},
            "behavior_item_ids": [],
            "behavior_category": [],
            "candidate_item_ids": [HIGHEST, 21],
            "candidate_category": [1, 0],
            "candidate_city": [2, 0],
            "candidate_province": [3, 0],
            "candidate_popularity": [1, 3],
            "clicks": [1, 0],
        },
    ]
    assert counts["rejected/train_samples/label not one-hot"] == 7
    assert counts["rejected/train_samples/null"] == 4
    assert counts["rejected/train_samples/no user row"] == 2
    (unseen,) = [e for e in examples["eval"] if 23 in e["candidate_item_ids"]]
    assert unseen["candidate_popularity"] == [1, 4, 0]


_USERS = st.sampled_from([LOWEST, -1, 3, 4, HIGHEST])
_ITEMS = st.sampled_from([LOWEST, -7, 11, 12, 13, HIGHEST])
_LABELS = st.sampled_from(
    [(1, 0), (0, 1), (1, 0), (0, 1), (1, 1), (0, 0), (), (1,), None, (None, 0)]
)
_VALUES = st.one_of(st.none(), st.integers(-3, 3), st.integers(-3, 3))


_PROFILES = st.one_of(st.none(), st.integers(-2, 2))


@st.composite
def _samples(draw):
    rows = draw(
        st.lists(
            st.builds(
                sample_row,
                st.one_of(_USERS, st.sampled_from([None, 0, 77])),
                st.one_of(_ITEMS, st.sampled_from([None, 0, 88])),
                _LABELS,
            ),
            max_size=14,
        )
    )
    place = draw(st.integers(0, len(rows)))
    return [*rows[:place], sample_row(3, 11, (0, 1)), *rows[place:]]


@st.composite
def _user_rows(draw):
    rows = []
    for _ in range(draw(st.integers(0, 7))):
        length = draw(st.integers(0, 4))
        other = draw(st.sampled_from([length, length, length, 2]))
        rows.append(
            user_row(
                draw(st.one_of(_USERS, st.sampled_from([None, 0]))),
                draw(st.lists(_VALUES, min_size=length, max_size=length)),
                draw(st.lists(_VALUES, min_size=other, max_size=other)),
                draw(st.tuples(*[_PROFILES] * 5)),
            )
        )
    return [user_row(3, (11, 0), (1, 0)), *rows]


@st.composite
def _raw_tables(draw):
    items = draw(
        st.lists(
            st.builds(
                item_row,
                st.one_of(_ITEMS, st.sampled_from([None, 0])),
                _VALUES,
                _VALUES,
                _VALUES,
            ),
            max_size=8,
        )
    )
    vectors = draw(st.lists(_ITEMS, min_size=1, max_size=4))
    return {
        "train_samples": draw(_samples()),
        "train_user_features": draw(_user_rows()),
        "test_samples": draw(_samples()),
        "test_user_features": draw(_user_rows()),
        "item_features": [item_row(11), *items],
        "scl_embedding_int8_p90": [vector_row(item) for item in vectors],
    }


@pytest.mark.once
@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(
    tables=_raw_tables(),
    max_candidates=st.integers(1, 4),
    partitions=st.integers(1, 4),
    rows_per_group=st.integers(1, 5),
)
def test_any_tables_join_as_the_oracle_joins(
    tables, max_candidates, partitions, rows_per_group
):
    with tempfile.TemporaryDirectory() as folder:
        check(
            tables,
            folder,
            max_candidates=max_candidates,
            partitions=partitions,
            rows_per_group=rows_per_group,
        )


def test_the_first_duplicate_wins_in_whatever_order_rows_arrive():
    """A shuffle keeps no order: the position in the table decides."""

    def part(rows):
        return arrow_batches.serialize(
            pa.RecordBatch.from_pylist(
                [{**oracle.named(row), "position": at} for at, row in rows]
            )
        )

    sample = pa.RecordBatch.from_pylist(
        [
            {
                **oracle.named(sample_row(7, 20)),
                "position": 0,
                "split": "train",
            }
        ]
    )
    rows = [(0, item_row(21)), (1, item_row(20, 5)), (9, item_row(20, 6))]
    for order in itertools.permutations(rows):
        outputs = list(
            item_join.JoinItems(None, 1, preset("taobao_mm")).process(
                (
                    0,
                    {
                        "samples": [arrow_batches.serialize(sample)],
                        "events": [],
                        "items": [part([row]) for row in order],
                        "embedded": [],
                    },
                )
            )
        )
        rejected, joined, *counts = outputs
        assert (rejected.tag, joined.tag) == ("rejected", "rows")
        assert {one.tag for one in counts} == {"counts"}
        assert [one.value for one in counts] == [
            ("rejected/item_features/duplicate item row", 1),
            ("joined/candidates_without_embedding", 1),
        ]
        table, row = rejected.value
        assert table == "item_features"
        assert arrow_batches.deserialize(row).to_pylist() == [
            {
                **oracle.named(item_row(20, 6)),
                "position": 9,
                "reason": "duplicate item row",
            }
        ]
        (found,) = arrow_batches.deserialize(joined.value[1]).to_pylist()
        assert found["item_category"] == 5


def test_too_many_rejected_rows_fail_but_are_kept(broken, tmp_path):
    with pytest.raises(DataError, match="train: 16 of 23 impressions") as info:
        run(broken, tmp_path, max_rejected_fraction=0.5)
    assert info.value.code == "TOO_MANY_REJECTED"
    rejected, counts = read_rejected(tmp_path / "rejected")
    wanted = oracle.join(broken, 3)
    assert in_any_order(rejected) == in_any_order(wanted[1])
    assert counts == wanted[2]


def test_a_second_run_replaces_the_rejected_rows(broken, tmp_path):
    run(broken, tmp_path)
    clean = {
        name: rows[:1] if "samples" in name else rows
        for name, rows in broken.items()
    }
    clean["train_samples"] = [sample_row(7, 20)]
    again = tmp_path / "again"
    again.mkdir()
    (tmp_path / "rejected").rename(again / "rejected")
    _, rejected, _ = run(clean, again)
    assert not [row for row in rejected if "samples" in row[0]]


def contents(folder: pathlib.Path) -> dict[str, list]:
    """Returns the records of every Example file, in order."""
    return {
        f"{path.parent.name}/{path.name}": [
            parse(record.numpy())
            for record in tf.data.TFRecordDataset(
                str(path), compression_type="GZIP"
            )
        ]
        for path in folder.rglob("*.gz")
    }


def test_output_depends_on_the_rows_alone(broken, tmp_path):
    """Files, order and all, whatever the row groups rows arrive in."""
    found = []
    for rows_per_group in (1, 100):
        folder = tmp_path / str(rows_per_group)
        write_examples(broken, folder, rows_per_group=rows_per_group)
        found.append(
            (contents(folder / "examples"), *read_rejected(folder / "rejected"))
        )
    assert found[0] == found[1]


def test_every_partition_is_a_file_of_each_split(broken, tmp_path):
    write_examples(broken, tmp_path, partitions=9)
    expected = {
        f"Split-{split}/data_tfrecord-{shard:05d}-of-00009.gz"
        for split in ("train", "eval")
        for shard in range(9)
    }
    assert contents(tmp_path / "examples").keys() == expected
    records = sum(
        len(read_examples(tmp_path / "examples" / f"Split-{split}"))
        for split in ("train", "eval")
    )
    assert records < 9, "some files hold no record"


def test_requests_of_a_user_are_together_and_in_table_order(tmp_path):
    users = range(1, 30)
    samples = [sample_row(user, 20 + n) for n in range(5) for user in users]
    tables = {
        "train_samples": samples,
        "train_user_features": [user_row(user) for user in users],
        "test_samples": samples[:1],
        "test_user_features": [user_row(1)],
        "item_features": [item_row(20 + n) for n in range(5)],
        "scl_embedding_int8_p90": [vector_row(20)],
    }
    examples, _, _ = run(tables, tmp_path, max_candidates=2)
    order = [e["user_id"][0] for e in examples["train"]]
    assert order[::3] == order[1::3] == order[2::3]
    assert sorted(order[::3]) == list(users) != order[::3]
    for start in range(0, len(order), 3):
        shown = [e["candidate_item_ids"] for e in examples["train"][start:]]
        assert shown[:3] == [[20, 21], [22, 23], [24]]


def test_a_runner_that_shuffles_on_disk_gives_the_same(
    broken, tmp_path, monkeypatch
):
    """Without shuffle files the batches themselves are shuffled."""
    write_examples(broken, tmp_path / "files")
    monkeypatch.setattr(shuffle_files, "_LOCAL_RUNNERS", ())
    made = []
    create = shuffle_files.FileSystems.create
    monkeypatch.setattr(
        shuffle_files.FileSystems,
        "create",
        lambda path, **options: made.append(path) or create(path, **options),
    )
    check(broken, tmp_path / "elements")
    inside = [path.removeprefix(str(tmp_path)) for path in made]
    assert inside and not [path for path in inside if "shuffle" in path]
    assert contents(tmp_path / "files" / "examples") == contents(
        tmp_path / "elements" / "examples"
    )


def test_shuffle_files_are_gone_afterwards(broken, tmp_path, monkeypatch):
    write_examples(broken, tmp_path / "good")
    with monkeypatch.context() as patch:
        patch.setattr(
            request_join.requests,
            "build_requests",
            lambda *_: (_ for _ in ()).throw(OSError("disk full")),
        )
        with pytest.raises(Exception, match="disk full"):
            write_examples(broken, tmp_path / "bad")
    for name in ("good", "bad"):
        left = [path.name for path in (tmp_path / name).rglob("*")]
        assert "shuffle" not in left
    assert not any((tmp_path / "bad" / "examples").rglob("*.tmp"))
    assert not any(contents(tmp_path / "bad" / "examples").values())


@pytest.mark.parametrize(
    "name", ["max_candidates", "item_partitions", "user_partitions"]
)
def test_options_name_what_is_wrong(name):
    values = {
        "max_candidates": 1,
        "item_partitions": 1,
        "user_partitions": 1,
        name: 0,
    }
    with pytest.raises(ValueError, match=f"{name} must be at least 1.*0"):
        request_join.JoinOptions(**values)


def test_partitions_follow_the_decoded_size_of_the_tables(tmp_path):
    # Constant values: 2 x 8 x 16 MiB in memory, next to nothing on disk.
    rows, length = 64, 1 << 18
    histories = pa.ListArray.from_arrays(
        pa.array(range(0, (rows + 1) * length, length), pa.int32()),
        pa.array(np.ones(rows * length, np.int64)),
    )
    ones = pa.array(np.ones(rows, np.int64))
    names = list(oracle.SCHEMAS["user_features"])
    columns = [ones] * (len(names) - 2) + [histories] * 2
    path = str(tmp_path / "users.parquet")
    pq.write_table(
        pa.Table.from_arrays(columns, names), path, row_group_size=16
    )
    assert pathlib.Path(path).stat().st_size < 1 << 20

    def choose(users=(), embeddings=()):
        files = request_join.RawFiles(
            samples={"train": []},
            users={"train": users, "eval": []},
            events=[],
            items=[],
            embeddings=embeddings,
            declared=preset("taobao_mm"),
        )
        return request_join.choose_partitions(files)

    # 256 MiB and a little: five partitions of at most 64 MiB.
    assert choose([path]) == (4, 5)
    assert choose([path] * 4) == (4, 17)
    # Only the ids of the rows count: 512 bytes.
    pq.write_table(
        pa.Table.from_arrays([ones, histories], ["205", "205_c"]), path
    )
    assert choose(embeddings=[path]) == (4, 4)
