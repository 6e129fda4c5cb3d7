"""Arrow record batches as Beam elements."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfx_pipeline.transforms import arrow_batches


def batch_of(ids, width=3):
    rng = np.random.default_rng(1)
    lists = [rng.integers(-9, 9, rng.integers(0, width + 1)) for _ in ids]
    return pa.RecordBatch.from_arrays(
        [
            pa.array(ids, pa.int64()),
            pa.array(
                [list(map(int, row)) for row in lists], pa.list_(pa.int64())
            ),
            pa.array([f"name {i}" for i in range(len(ids))], pa.string()),
            pa.array(
                [None if i % 3 else 1 for i in range(len(ids))], pa.int8()
            ),
        ],
        names=["id", "list", "text", "maybe"],
    )


@pytest.mark.parametrize("rows", [0, 1, 17])
def test_round_trip(rows):
    batch = batch_of(list(range(rows)))
    again = arrow_batches.deserialize(arrow_batches.serialize(batch))
    assert again.equals(batch) and again.schema.equals(batch.schema)


def test_slice_round_trips_and_costs_its_own_bytes():
    batch = batch_of(list(range(10_000)), width=40)
    piece = batch.slice(5_000, 10)
    data = arrow_batches.serialize(piece)
    assert arrow_batches.deserialize(data).to_pylist() == piece.to_pylist()
    alone = pa.RecordBatch.from_pylist(piece.to_pylist(), piece.schema)
    assert len(data) <= len(arrow_batches.serialize(alone)) + 1024
    assert len(data) < len(arrow_batches.serialize(batch)) / 100


def test_concatenation_keeps_rows_and_order():
    batch = batch_of(list(range(12)))
    parts = [
        batch.slice(start, size)
        for start, size in ((0, 5), (5, 0), (5, 1), (6, 6))
    ]
    joined = arrow_batches.concatenate(parts)
    assert joined.to_pylist() == batch.to_pylist()
    assert joined.schema.equals(batch.schema)
    assert arrow_batches.concatenate([]) is None
    empty = arrow_batches.concatenate(parts[1:2])
    assert empty.num_rows == 0 and empty.schema.equals(batch.schema)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40),
    st.integers(1, 9),
)
def test_partitions_hold_every_row_once_in_order(ids, partitions):
    batch = batch_of(ids)
    seen = []
    for index, part in arrow_batches.partition(batch, "id", partitions):
        mine = part.to_pylist()
        assert mine and 0 <= index < partitions
        keys = np.array([row["id"] for row in mine], np.int64)
        assert (arrow_batches.partition_of(keys, partitions) == index).all()
        places = [int(row["text"].split()[1]) for row in mine]
        assert places == sorted(places)
        seen += mine
    key = lambda row: row["text"]  # noqa: E731
    assert sorted(seen, key=key) == sorted(batch.to_pylist(), key=key)


def test_partitions_are_even_for_ids_of_any_pattern():
    for ids in (
        np.arange(100_000),
        np.arange(100_000) << 40,
        -np.arange(1, 100_001) * 1024,
    ):
        counts = np.bincount(arrow_batches.partition_of(ids, 16), minlength=16)
        # Six standard deviations of a fair distribution.
        assert np.abs(counts - 6250).max() < 6 * 6250**0.5


def test_mixing_maps_ids_one_to_one():
    ids = np.r_[np.arange(-500, 500), np.arange(1000) << 50]
    mixed = arrow_batches.mix(ids)
    assert mixed.dtype == np.uint64
    assert len(np.unique(mixed)) == len(np.unique(ids))


def test_appended_columns_come_last():
    batch = batch_of([3, 4])
    more = arrow_batches.append(batch, text_2=pa.array(["a", "b"]))
    assert more.schema.names == [*batch.schema.names, "text_2"]
    assert arrow_batches.column(more, "text_2").to_pylist() == ["a", "b"]
    assert more.num_columns == batch.num_columns + 1


def test_partition_is_the_murmur3_finalizer():
    """Against a scalar implementation with Python integers."""

    def expected(value, partitions):
        mask = 2**64 - 1
        value &= mask
        value = ((value ^ (value >> 33)) * 0xFF51AFD7ED558CCD) & mask
        value = ((value ^ (value >> 33)) * 0xC4CEB9FE1A85EC53) & mask
        return (value ^ (value >> 33)) % partitions

    ids = [0, 1, -1, 2**63 - 1, -(2**63), 123456789, -987654321]
    found = arrow_batches.partition_of(np.array(ids), 11)
    assert found.tolist() == [expected(value, 11) for value in ids]
