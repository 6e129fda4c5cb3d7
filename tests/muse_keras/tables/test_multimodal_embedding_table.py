"""The device table against the artifact, on whatever backend is chosen."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from muse_keras._ops.ids import backend_holds_int64
from muse_keras.tables import (
    ItemTable,
    MultimodalEmbeddingTable,
    gather_rows,
)

INT64 = np.iinfo(np.int64)
EDGES = [INT64.min, INT64.max, -1, 1, 2**31, -(2**31), 2**32 + 1]
on_device = pytest.mark.skipif(
    not backend_holds_int64(), reason="the backend holds no int64"
)


@pytest.fixture
def item_table(tmp_path: Path) -> ItemTable:
    """Return a table whose ids reach both ends of int64."""
    rng = np.random.default_rng(2)
    ids = np.unique(
        np.concatenate([rng.integers(INT64.min, INT64.max, 500), EDGES])
    )
    codes = rng.integers(-127, 128, (len(ids), 12)).astype(np.int8)
    codes[7] = 0
    features = {
        name: np.zeros(len(ids), np.int64)
        for name in ("category", "city", "province")
    }
    return ItemTable.write(tmp_path / "t", ids, codes, features, "test")


def queries(item_table: ItemTable) -> np.ndarray:
    """Return known ids, their neighbors, 0 and ids cut to 32 bits."""
    ids = item_table.item_ids
    with np.errstate(over="ignore"):
        near = [ids, ids + 1, ids - 1, ids.astype(np.int32), 0 * ids[:1]]
    return np.concatenate(near).astype(np.int64)


def test_lookup_is_exact(item_table: ItemTable) -> None:
    table = MultimodalEmbeddingTable.from_item_table(item_table)
    ids = queries(item_table)
    rows = table.lookup(ids)
    assert keras.backend.standardize_dtype(rows.dtype) == "int32"
    known = {int(item): row + 1 for row, item in enumerate(item_table.item_ids)}
    assert ops.convert_to_numpy(rows).tolist() == [
        known.get(int(item), 0) for item in ids
    ]
    square = ids[: len(ids) // 4 * 4].reshape(4, -1)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(table.lookup(square)), item_table.rows(square)
    )


def test_lookup_of_nothing(item_table: ItemTable) -> None:
    table = MultimodalEmbeddingTable.from_item_table(item_table)
    rows = ops.convert_to_numpy(table.lookup(np.zeros((3, 0), np.int64)))
    assert rows.shape == (3, 0)


def test_before_assign_every_id_is_unknown() -> None:
    table = MultimodalEmbeddingTable(5, 2)
    rows = ops.convert_to_numpy(table.lookup(np.array([0, 1, -1, INT64.min])))
    assert not rows.any()


def test_call_returns_rows_and_codes(item_table: ItemTable) -> None:
    table = MultimodalEmbeddingTable.from_item_table(item_table)
    ids = queries(item_table).reshape(-1, 1)
    rows, codes = table(ids)
    expected = item_table.rows(ids)
    np.testing.assert_array_equal(ops.convert_to_numpy(rows), expected)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(codes), item_table.codes[expected]
    )
    np.testing.assert_array_equal(
        ops.convert_to_numpy(table.inverse_norms_of(rows)),
        item_table.inverse_norms()[expected],
    )


def test_weights_are_frozen_and_keep_their_dtypes(
    item_table: ItemTable,
) -> None:
    table = MultimodalEmbeddingTable.from_item_table(
        item_table, dtype="mixed_float16"
    )
    assert not table.trainable_variables
    _, codes = table(item_table.item_ids[:2])
    assert keras.backend.standardize_dtype(codes.dtype) == "int8"
    dtypes = {v.name: v.dtype for v in table.variables}
    assert dtypes["codes"] == "int8"
    assert dtypes["inverse_norms"] == "float32"
    assert dtypes.get("item_ids", "int64") == "int64"


@pytest.mark.parametrize("rows", [[[-1, 3]], [3, 4, 2**31 - 1], []])
def test_rows_outside_the_table_read_row_0(rows: Any) -> None:
    values = np.arange(8, dtype=np.float32).reshape(4, 2) + 1
    table = keras.Variable(values, autocast=False)
    asked = np.array(rows, np.int32)
    inside = np.where((asked >= 0) & (asked < 4), asked, 0)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(gather_rows(table, asked)), values[inside]
    )


@on_device
def test_saves_and_loads(item_table: ItemTable, tmp_path: Path) -> None:
    inputs = keras.Input((None,), dtype="int64")
    rows, codes = MultimodalEmbeddingTable(
        item_table.num_items, item_table.dim, name="table"
    )(inputs)
    model = keras.Model(inputs, {"rows": rows, "codes": codes})
    model.get_layer("table").assign(item_table)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    ids = queries(item_table)[None]
    for name, value in model(ids).items():
        np.testing.assert_array_equal(
            ops.convert_to_numpy(loaded(ids)[name]),
            ops.convert_to_numpy(value),
        )
    assert ops.convert_to_numpy(loaded(ids)["rows"]).any()


def test_weights_file_keeps_ids_on_every_backend(
    item_table: ItemTable, tmp_path: Path
) -> None:
    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.table = MultimodalEmbeddingTable(
                item_table.num_items, item_table.dim
            )
            self.table.build()
            self.built = True

    model = Model()
    model.table.assign(item_table)
    model.save_weights(tmp_path / "w.weights.h5")
    again = Model()
    again.load_weights(tmp_path / "w.weights.h5")
    ids = queries(item_table)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(again.table.lookup(ids)), item_table.rows(ids)
    )


def test_config_round_trip() -> None:
    table = MultimodalEmbeddingTable(11, 4, name="items")
    again = MultimodalEmbeddingTable.from_config(table.get_config())
    assert again.get_config() == table.get_config()
    assert (again.num_items, again.dim, again.name) == (11, 4, "items")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "`num_items` must be a positive"),
        ((2.5,), "`num_items` must be a positive"),
        ((3, -1), "`dim` must be a positive"),
        ((2**31,), "less than 2"),
    ],
)
def test_constructor_refuses(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultimodalEmbeddingTable(*arguments)


def test_assign_refuses_another_size(item_table: ItemTable) -> None:
    for sizes in ((item_table.num_items + 1, 12), (item_table.num_items, 13)):
        with pytest.raises(ValueError, match="Received: "):
            MultimodalEmbeddingTable(*sizes).assign(item_table)


@pytest.mark.skipif(
    backend_holds_int64(), reason="the backend holds int64 on the device"
)
def test_ids_that_may_have_been_cut_are_refused(
    item_table: ItemTable,
) -> None:
    table = MultimodalEmbeddingTable.from_item_table(item_table)
    with pytest.raises(ValueError, match="holds no 64-bit integers"):
        table.lookup(ops.convert_to_tensor([1, 2]))


@pytest.mark.tf
def test_gradients_stay_sparse() -> None:
    tf = pytest.importorskip("tensorflow")
    table = keras.Variable(np.ones((1000, 3), "float32"), autocast=False)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(gather_rows(table, np.array([[4, 4], [9, -5]])))
    gradient = tape.gradient(total, table.value)
    assert isinstance(gradient, tf.IndexedSlices)
    dense = tf.math.unsorted_segment_sum(
        gradient.values, gradient.indices, 1000
    ).numpy()
    expected = np.zeros((1000, 3))
    expected[[4, 9, 0]] = [[2] * 3, [1] * 3, [1] * 3]
    np.testing.assert_array_equal(dense, expected)


@pytest.mark.tf
def test_lookup_in_a_function_of_unknown_sizes(item_table: ItemTable) -> None:
    tf = pytest.importorskip("tensorflow")
    table = MultimodalEmbeddingTable.from_item_table(item_table)
    ids = queries(item_table)
    for shape in ((-1,), (-1, 1), (1, 1, -1), (0, 4)):
        lookup = tf.function(
            table.lookup,
            input_signature=[tf.TensorSpec([None] * len(shape), tf.int64)],
        )
        asked = ids[:0].reshape(shape) if 0 in shape else ids.reshape(shape)
        np.testing.assert_array_equal(lookup(asked), item_table.rows(asked))


@pytest.mark.tf
def test_assign_does_not_hold_a_second_copy(tmp_path: Path) -> None:
    """Anonymous memory grows by the table and one block, not by two tables."""
    import subprocess
    import sys

    program = """
import sys
import numpy as np
from muse_keras.tables import MultimodalEmbeddingTable, row_gather

N, D = 1_000_000, 128

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("RssAnon"))

class Table:
    num_items, dim = N, D
    item_ids = np.arange(1, N + 1)
    codes = np.load(sys.argv[1], mmap_mode="r")
    def inverse_norms(self):
        return np.ones(N + 1, np.float32)

layer = MultimodalEmbeddingTable(10, D)
layer.lookup(np.arange(3))
before = anonymous()
layer = MultimodalEmbeddingTable(N, D)
layer.build()
built = anonymous()
highest = built
read_blocks = row_gather.read_blocks

def watched(values):
    global highest
    for block in read_blocks(values):
        yield block
        highest = max(highest, anonymous())

row_gather.read_blocks = watched
layer.assign(Table())
print((highest - before) * 1024 / (N * (D + 12)))
"""
    file = tmp_path / "codes.npy"
    np.lib.format.open_memmap(file, "w+", np.int8, (1_000_001, 128)).flush()
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert float(done.stdout.split()[-1]) < 1.5
