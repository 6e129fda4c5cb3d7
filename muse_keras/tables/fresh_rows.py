"""Items added to a loaded table: the newest row of an id, in graph code.

A table keeps spare rows behind those it was trained with. Each is written at
most once, by an item that is added or replaced, and `fresh_ids` says which id
a spare row holds (0 = none yet). The row of an id is then the last spare row
that holds it, or else its row in the table.

Nothing is atomic across variables, so readers derive all they need from one
read of `fresh_ids`: a `FreshIndex`, made for each request. Few ids of a
request are fresh, so a filter of one gather per id picks those that may be,
and only they are searched for. Its false alarms cost time alone.

Every op has a GPU kernel for its dtypes.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from muse_keras.tables.row_gather import gather_frozen

# About one false alarm in thirty with 4,096 fresh items.
_FILTER_BITS = 17


class FreshIndex(NamedTuple):
    """The spare rows in use, as one read found them.

    Attributes:
        ids: int64 (U,), item ids, ascending.
        slots: int64 (U,), the spare row of each, ascending among equal ids.
        may_hold: bool (2**17,), whether an id of that hash is there.
    """

    ids: tf.Tensor
    slots: tf.Tensor
    may_hold: tf.Tensor


def read_fresh_index(fresh_ids: Any, hash_of: Any) -> FreshIndex:
    """Return the index of the spare rows that are in use now.

    `fresh_ids` is a variable int64 (F,), 0 where not in use; `hash_of` maps
    int64 ids (n,) to well mixed uint64.
    """
    every = tf.range(fresh_ids.shape[0], dtype=tf.int64)
    stored = gather_frozen(fresh_ids, every)
    used = tf.where(tf.not_equal(stored, 0))
    ids = tf.gather_nd(stored, used)
    ordered, order = sort_ids(ids)
    # float32: a sum of bytes could overflow to 0.
    counts = tf.scatter_nd(
        _bucket(hash_of(ids))[:, tf.newaxis],
        tf.ones_like(ids, tf.float32),
        tf.constant([1 << _FILTER_BITS], tf.int64),
    )
    return FreshIndex(
        ordered, tf.gather(used[:, 0], order), tf.greater(counts, 0.0)
    )


def newest_rows(
    index: FreshIndex,
    ids: tf.Tensor,
    hashes: tf.Tensor,
    rows: tf.Tensor,
    first_row: int,
) -> tf.Tensor:
    """Return int64 rows of ids (n,), those of fresh items replaced.

    `hashes` are those of `hash_of`, `rows` the ids' rows in the table (0 =
    unknown), `first_row` is the row of slot 0.
    """
    # Id 0 is never found: it is not in the index.
    places = tf.where(tf.gather(index.may_hold, _bucket(hashes)))
    slots = last_of_equal(
        index.ids, index.slots, tf.gather_nd(ids, places), missing=-1
    )
    found = tf.where(slots >= 0, slots + first_row, tf.gather_nd(rows, places))
    return tf.tensor_scatter_nd_update(rows, places, found)


def sort_ids(ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return int64 ids (n,) in ascending order, and their former places.

    Equal ids keep their order.
    """
    # The complement reverses the order, for the smallest int64 too.
    values, order = tf.math.top_k(tf.bitwise.invert(ids), k=tf.size(ids))
    return tf.bitwise.invert(values), tf.cast(order, tf.int64)


def last_of_equal(
    ordered: tf.Tensor, values: tf.Tensor, ids: tf.Tensor, missing: int
) -> tf.Tensor:
    """Return the last of the values aligned with each id, or `missing`.

    `ordered` are int64 ids (U,) in ascending order, `values` int64 (U,).
    """
    after = tf.raw_ops.UpperBound(
        sorted_inputs=ordered[tf.newaxis],
        values=ids[tf.newaxis],
        out_type=tf.int64,
    )[0]
    last = tf.maximum(after - 1, tf.constant(0, tf.int64))
    same = tf.equal(tf.gather(ordered, last), ids)
    found = tf.gather(values, last)
    return tf.where(
        same, found, tf.fill(tf.shape(found), tf.constant(missing, tf.int64))
    )


def _bucket(hashes: tf.Tensor) -> tf.Tensor:
    """Return the place of uint64 hashes in the filter, int64."""
    shift = tf.constant(64 - _FILTER_BITS, tf.uint64)
    return tf.bitcast(tf.bitwise.right_shift(hashes, shift), tf.int64)
