"""Items added to a table: the newest row of an id, and what is kept."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from muse_keras.tables import ItemTable, MultimodalEmbeddingTable

INT64 = np.iinfo(np.int64)
EDGES = [INT64.min, INT64.max, -1, 1, 2**32]
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow serves"
)


@pytest.fixture
def item_table(tmp_path: Path) -> ItemTable:
    rng = np.random.default_rng(3)
    ids = np.unique(np.concatenate([rng.integers(1, 10**6, 200), EDGES]))
    codes = rng.integers(-127, 128, (len(ids), 8)).astype(np.int8)
    zeros = np.zeros(len(ids), np.int64)
    features = {name: zeros for name in ("category", "city", "province")}
    return ItemTable.write(tmp_path / "t", ids, codes, features, "test")


def fill(table: Any, slots: list[int], ids: list[int], codes: Any) -> None:
    """Write slots and publish them."""
    import tensorflow as tf

    chosen = tf.constant(slots, tf.int64)
    known = tf.cast(table.lookup_known(np.array(ids, np.int64)), tf.int64)
    table.write_slots(chosen, tf.constant(codes, tf.int8), known)
    table.publish_slots(chosen, tf.constant(ids, tf.int64))


@on_tensorflow
@pytest.mark.parametrize("used", [0, 1, 7, 40])
def test_the_last_slot_of_an_id_is_its_row(
    item_table: ItemTable, used: int
) -> None:
    rng = np.random.default_rng(used)
    table = MultimodalEmbeddingTable.from_item_table(item_table, spare_rows=40)
    some = [*EDGES, *item_table.item_ids[:5].tolist(), 2, 3, INT64.min + 1]
    # Slots are taken in any order, and some stay empty.
    slots = rng.permutation(40)[:used]
    ids = rng.choice(some, used)
    codes = rng.integers(-127, 128, (used, 8)).astype(np.int8)
    if used:
        fill(table, slots.tolist(), ids.tolist(), codes)
    queries = np.concatenate(
        [item_table.item_ids, some, np.array(some) + 5, [0, 0]]
    ).astype(np.int64)
    slot_of = {int(ids[i]): int(slots[i]) for i in np.argsort(slots)}
    expected = item_table.rows(queries).tolist()
    for place, item in enumerate(queries.tolist()):
        if item in slot_of:
            expected[place] = item_table.num_items + 1 + slot_of[item]
    rows = ops.convert_to_numpy(table.lookup(queries))
    assert rows.dtype == np.int32
    assert rows.tolist() == expected
    # Two dimensions, and a snapshot given by the caller.
    index = table.fresh_index()
    pairs = queries[: len(queries) // 2 * 2].reshape(-1, 2)
    both = ops.convert_to_numpy(table.lookup(pairs, index))
    assert both.ravel().tolist() == expected[: both.size]
    # The item table itself is as it was.
    np.testing.assert_array_equal(
        ops.convert_to_numpy(table.lookup_known(queries)),
        item_table.rows(queries),
    )
    np.testing.assert_array_equal(
        ops.convert_to_numpy(table.known_rows(rows)), item_table.rows(queries)
    )


@on_tensorflow
def test_a_snapshot_does_not_see_later_items(item_table: ItemTable) -> None:
    table = MultimodalEmbeddingTable.from_item_table(item_table, spare_rows=4)
    before = table.fresh_index()
    fill(table, [0], [2], np.ones((1, 8)))
    assert int(table.lookup(np.array([2]), before)[0]) == 0
    assert int(table.lookup(np.array([2]))[0]) == item_table.num_items + 1


@on_tensorflow
def test_ids_of_one_hash_are_told_apart() -> None:
    import tensorflow as tf

    from muse_keras.tables.fresh_rows import newest_rows, read_fresh_index

    def same_hash(ids: Any) -> Any:
        return tf.zeros_like(ids, tf.uint64)

    stored = tf.Variable(np.array([5, 0, 6, 5, INT64.min, 0]), trainable=False)
    index = read_fresh_index(stored, same_hash)
    ids = tf.constant([5, 6, 7, 0, INT64.min, INT64.max], tf.int64)
    rows = tf.constant([1, 2, 3, 0, 4, 5], tf.int64)
    found = newest_rows(index, ids, same_hash(ids), rows, first_row=10)
    assert found.numpy().tolist() == [13, 12, 3, 0, 14, 5]


@on_tensorflow
def test_norms_of_slots_are_those_of_the_item_table(
    item_table: ItemTable,
) -> None:
    """The search takes squared norms back from them, and must be exact."""
    table = MultimodalEmbeddingTable.from_item_table(item_table, spare_rows=300)
    codes = item_table.codes[1:]
    fill(table, list(range(len(codes))), item_table.item_ids.tolist(), codes)
    rows = ops.convert_to_numpy(table.lookup(item_table.item_ids))
    assert (rows > item_table.num_items).all()
    np.testing.assert_array_equal(
        ops.convert_to_numpy(table.inverse_norms_of(rows)),
        item_table.inverse_norms()[1:],
    )
    np.testing.assert_array_equal(
        ops.convert_to_numpy(table.vectors(rows)), codes
    )


def test_spare_rows_change_nothing_but_the_size(
    item_table: ItemTable, tmp_path: Path
) -> None:
    table = MultimodalEmbeddingTable.from_item_table(item_table, spare_rows=9)
    plain = MultimodalEmbeddingTable.from_item_table(item_table)
    assert table.codes.shape[0] == plain.codes.shape[0] + 9
    ids = np.array([*item_table.item_ids[:9], 2, 0])
    for got, expected in zip(table(ids), plain(ids), strict=True):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(got), ops.convert_to_numpy(expected)
        )
    again = MultimodalEmbeddingTable.from_config(table.get_config())
    assert again.spare_rows == 9


@on_tensorflow
def test_keras_files_hold_the_table_without_its_slots(
    item_table: ItemTable, tmp_path: Path
) -> None:
    table = MultimodalEmbeddingTable.from_item_table(
        item_table, spare_rows=3, name="t"
    )
    fill(table, [1], [2], np.ones((1, 8)))

    def model_of(layer: Any) -> keras.Model:
        class Holder(keras.Model):
            def __init__(self) -> None:
                super().__init__()
                self.table = layer

        holder = Holder()
        holder.built = True
        return holder

    file = tmp_path / "m.weights.h5"
    model_of(table).save_weights(file)
    other = MultimodalEmbeddingTable(
        item_table.num_items, 8, spare_rows=7, name="t"
    )
    other.build()
    model_of(other).load_weights(file)
    ids = np.array([*item_table.item_ids[:9], 2, 0])
    np.testing.assert_array_equal(
        ops.convert_to_numpy(other.lookup(ids)), item_table.rows(ids)
    )
    np.testing.assert_array_equal(
        ops.convert_to_numpy(other(item_table.item_ids)[1]),
        item_table.codes[1:],
    )


@pytest.mark.parametrize("spare_rows", [-1, 1.5, 2**31])
def test_wrong_sizes_are_named(spare_rows: Any) -> None:
    with pytest.raises(ValueError, match="spare_rows=" + str(spare_rows)):
        MultimodalEmbeddingTable(5, 4, spare_rows)
