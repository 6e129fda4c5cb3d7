"""Tables spread over devices read and write as whole ones do."""

import contextlib
from pathlib import Path

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("of TensorFlow", allow_module_level=True)

from muse_keras.tables import gather_rows, row_files  # noqa: E402
from muse_keras.tables.device_shards import (  # noqa: E402
    restore_shards,
    spread_rows,
)
from muse_keras.tables.row_gather import scatter_rows  # noqa: E402


def variable(rows: int, dtype: str, width: tuple[int, ...] = (3,)):
    rng = np.random.default_rng(rows)
    values = rng.integers(-99, 99, (rows, *width)).astype(dtype)
    return keras.Variable(
        values, trainable=dtype == "float32", autocast=False, dtype=dtype
    )


@contextlib.contextmanager
def spread(folder: Path, table: keras.Variable, count: int):
    """Let functions read shards of a table, restored from its files."""
    prefix = str(folder / "table")
    column = row_files.Column("rows", 1, 0, table.value)
    row_files.write(prefix, [column])
    row_files.merge([prefix], prefix)
    with spread_rows([table], count) as shards:
        (parts,) = shards.values()
        tf.function(restore_shards)(
            parts, tf.constant(prefix), "rows", table.shape[0]
        )
        yield parts


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(row_files, "CHUNK_ROWS", 3)
    monkeypatch.setattr(row_files, "_FILE_BYTES", 20)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("dtype", "width"), [("int8", (3,)), ("float32", (2,)), ("float32", ())]
)
def test_rows_are_those_of_the_whole_table(tmp_path, count, dtype, width):
    table = variable(11, dtype, width)
    rows = np.random.default_rng(0).integers(-3, 14, (4, 6))
    expected = np.asarray(table)[np.where((rows >= 0) & (rows < 11), rows, 0)]
    with spread(tmp_path, table, count) as parts:
        read = tf.function(lambda rows: gather_rows(table, rows))
        for given in (rows, rows.astype(np.int32), rows[:0], rows[0, 0]):
            found = read(tf.constant(given))
            wanted = (
                expected
                if given.shape == rows.shape
                else (expected[0, 0] if given.ndim == 0 else expected[:0])
            )
            np.testing.assert_array_equal(found, wanted)
    assert len(parts) == count
    # Each shard has about its share, and all rows are somewhere.
    sizes = [part.shape[0] for part in parts]
    assert sum(sizes) == 11 and max(sizes) - min(sizes) <= 1
    traced = read.get_concrete_function(tf.constant(rows))
    handle = table.value.handle
    assert all(one is not handle for one in traced.captured_inputs)


def test_written_rows_are_read_again(tmp_path):
    table = variable(10, "int8")
    before = np.asarray(table).copy()
    rows = tf.constant([7, 0, 9, 4], tf.int64)
    values = tf.constant(np.arange(12).reshape(4, 3), tf.int8)
    with spread(tmp_path, table, 3):

        @tf.function
        def write_and_read():
            with tf.control_dependencies([scatter_rows(table, rows, values)]):
                return gather_rows(table, tf.range(10))

        found = write_and_read().numpy()
    expected = before.copy()
    expected[rows] = values
    np.testing.assert_array_equal(found, expected)
    # The variable itself stays as it was.
    np.testing.assert_array_equal(np.asarray(table), before)


def test_other_tables_and_later_functions_read_the_whole():
    one, two = variable(5, "int8"), variable(6, "int8")
    with spread_rows([one], 2):
        pass
    for table in (one, two):
        np.testing.assert_array_equal(gather_rows(table, [2]), table[2:3])
    with spread_rows([one], 2):
        function = tf.function(lambda: gather_rows(two, [2]))
        assert len(function.get_concrete_function().captured_inputs) == 1


def test_more_shards_than_rows(tmp_path):
    table = variable(2, "float32")
    with spread(tmp_path, table, 4):
        np.testing.assert_array_equal(
            gather_rows(table, [1, 0, 1]), np.asarray(table)[[1, 0, 1]]
        )
