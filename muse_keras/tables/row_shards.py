"""Tables whose rows are divided among the replicas of a strategy.

Of R replicas, shard s holds the rows r with r % R = s, at place r // R. In a
step each replica requests the rows of its part of the batch, each once, by an
all-to-all exchange. Gradients take the same way back, so that the replica that
holds a row gets their sum over all replicas, and the others receive nothing.
"""

import contextlib
import contextvars
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from muse_keras._ops.replicas import gather_over_replicas
from muse_keras._ops.rows import raw_variable

# Not one of those that tf.distribute counts from 1.
_GROUP = 0x4D555345
_instances = itertools.count(1)
# TensorFlow fixes the shape of a collective operation at its first step. So the
# sizes of parts are rounded up to powers of two, and each has its own number.
_WORD = 4
_SIZES = [1 << bits for bits in range(31)]
# Tables of at least so many rows are divided, and whether parts are held here.
_minimum_rows: contextvars.ContextVar[tuple[int, bool]] = (
    contextvars.ContextVar("minimum_rows", default=(0, True))
)


class RowShards(NamedTuple):
    """How the rows of a variable are divided.

    Attributes:
        rows: number of rows of the whole table.
        total: number of shards, one on each replica.
        own: the shards of this process, in the order of its replicas; empty
            if it holds no rows.
    """

    rows: int
    total: int
    own: tuple[int, ...]


@contextlib.contextmanager
def divided_rows(minimum_rows: int, held: bool = True) -> Iterator[None]:
    """Divide the tables that are made inside among the replicas.

    Use it in the scope of the strategy. A divided table can only be read
    inside `strategy.run`.

    Args:
        minimum_rows: int, smaller tables stay whole on every replica; 0: all
            do.
        held: bool, False: this process holds no rows of them. It can then
            trace a model whose tables are in files, and not call it.
    """
    token = _minimum_rows.set((minimum_rows, held))
    try:
        yield
    finally:
        _minimum_rows.reset(token)


def shards_of(num_rows: int) -> int:
    """Return the number of shards of a table that is made now."""
    minimum, held = _minimum_rows.get()
    if not minimum or num_rows < minimum:
        return 1
    if not held:
        return num_rows
    return tf.distribute.get_strategy().num_replicas_in_sync


def divide(variable: Any, num_rows: int) -> None:
    """Mark a `keras.Variable` as this process's part of a table."""
    own = _own_shards() if _minimum_rows.get()[1] else ()
    variable.row_shards = RowShards(num_rows, shards_of(num_rows), own)


def is_held(variable: Any) -> bool:
    """Tell whether this process holds rows of a `keras.Variable`."""
    divided = getattr(variable, "row_shards", None)
    return not divided or bool(divided.own)


def _own_shards() -> tuple[int, ...]:
    """Return the shard of each replica of this process, in their order."""
    strategy = tf.distribute.get_strategy()
    count = strategy.num_replicas_in_sync

    @tf.function(autograph=False)
    def ranks() -> Any:
        # Part i goes to the member of rank i, so all received are the same.
        parts = tf.range(count, dtype=tf.int64)
        return strategy.run(lambda: _exchange(parts, 0)[0])

    found = strategy.experimental_local_results(ranks())
    return tuple(int(rank) for rank in found)


def local_shards(variable: Any) -> dict[int, tf.Variable]:
    """Return this process's parts of a `keras.Variable` by their shards."""
    if not is_held(variable):
        return {}
    value, shards = variable.value, variable.row_shards
    copies = tf.distribute.get_strategy().experimental_local_results(value)
    return dict(zip(shards.own, copies, strict=True))


def read_rows(variable: Any, rows: Any) -> Any:
    """Return rows of a table outside of a step; all processes call this.

    `rows` are the same int64 on all of them, for a table that is divided.
    """
    from muse_keras.tables.row_gather import gather_rows

    strategy = tf.distribute.get_strategy()

    @tf.function(autograph=False)
    def read() -> Any:
        return strategy.run(lambda: gather_rows(variable, rows))

    return strategy.experimental_local_results(read())[0]


def holders(variable: Any) -> list[tuple[int, int, tf.Variable]]:
    """Return the variables of this process that hold rows of a table.

    Each comes after its shard and the number of shards; copies of a whole
    table on several devices are shard 0 of 1.
    """
    divided = getattr(variable, "row_shards", None)
    if divided:
        parts = local_shards(variable).items()
        return [(shard, divided.total, part) for shard, part in parts]
    strategy = tf.distribute.get_strategy()
    copies = strategy.experimental_local_results(variable.value)
    return [(0, 1, copy) for copy in copies]


def write_rows(variable: Any, start: int, values: Any) -> None:
    """Write rows of a table that follow each other, those that are held here.

    Args:
        variable: `keras.Variable`, whole or divided.
        start: int, the first row.
        values: array or tensor of the rows' values.
    """
    for shard, count, holder in holders(variable):
        first = (shard - start) % count
        own = values[first::count]
        place = (start + first) // count
        holder.scatter_update(
            tf.IndexedSlices(own, tf.range(place, place + len(own)))
        )


def gather_divided(variable: Any, rows: Any) -> Any:
    """Return rows of a divided table, with gradients.

    Args:
        variable: `keras.Variable` (ceil(N / R), ...) of a table of N rows.
        rows: int64 of any shape, in [0, N).

    Returns:
        Tensor `rows.shape + variable.shape[1:]`.

    Raises:
        ValueError: outside `strategy.run`.
    """
    context = tf.distribute.get_replica_context()
    count = variable.row_shards.total
    if context is None or context.num_replicas_in_sync != count:
        raise ValueError(
            "A table that is divided among replicas is read inside "
            f"`strategy.run`, by all of its {count} replicas."
        )
    unique, position = tf.unique(tf.reshape(rows, [-1]))
    owner = unique % count
    order = tf.argsort(owner, stable=True)
    sizes = tf.math.unsorted_segment_sum(tf.ones_like(owner), owner, count)
    # Where each one is among those of its owner.
    starts = tf.gather(tf.cumsum(sizes, exclusive=True), owner)
    place = tf.cast(tf.math.invert_permutation(order), tf.int64) - starts
    slots = tf.stack([owner, place], axis=1)
    # All parts of an exchange have room for the largest.
    largest = gather_over_replicas(tf.reduce_max(sizes)[tf.newaxis])
    size = tf.searchsorted(
        _SIZES, tf.cast(tf.reduce_max(largest)[None], "int32")
    )
    room = tf.gather(tf.constant(_SIZES, tf.int64), size)
    asked = tf.scatter_nd(slots, unique // count, tf.concat([[count], room], 0))
    found = tf.gather(raw_variable(variable), _exchange(asked, size[0]))
    found = _from_words(_exchange(_as_words(found), size[0]), variable)
    values = tf.gather(tf.gather_nd(found, slots), position)
    width = variable.shape[1:]
    values = tf.reshape(values, tf.concat([tf.shape(rows), width], 0))
    return tf.ensure_shape(values, [*rows.shape, *width])


def _as_words(values: tf.Tensor) -> tf.Tensor:
    """Return int8 values as int32, since collectives have no int8."""
    if values.dtype != tf.int8:
        return values
    words = -(-values.shape[-1] // _WORD)
    missing = words * _WORD - values.shape[-1]
    values = tf.pad(values, [[0, 0]] * (values.shape.rank - 1) + [[0, missing]])
    shape = tf.concat([tf.shape(values)[:-1], [words, _WORD]], 0)
    return tf.bitcast(tf.reshape(values, shape), tf.int32)


def _from_words(words: tf.Tensor, variable: Any) -> tf.Tensor:
    """Return what `_as_words` was given, rows of a variable."""
    if words.dtype == variable.dtype:
        return words
    codes = tf.bitcast(words, tf.int8)
    codes = tf.reshape(codes, tf.concat([tf.shape(words)[:-1], [-1]], 0))
    return codes[..., : variable.shape[-1]]


def _exchange(parts: tf.Tensor, size: tf.Tensor | int) -> tf.Tensor:
    """Send part i to replica i; return the parts received, in their order.

    `size` is the place of the parts' size in `_SIZES`.
    """
    forward, backward = _next_instance() + size, _next_instance() + size

    @tf.custom_gradient
    def exchanged(parts: tf.Tensor) -> Any:
        received = _all_to_all(parts, forward)
        return received, lambda gradient: _all_to_all(gradient, backward)

    return exchanged(parts)


def _next_instance() -> int:
    """Return the first number of an exchange, the same on all replicas.

    All processes call the layers of a model in the same order. The order of
    gradients may differ, so their numbers are taken with those of the layers.
    """
    context = tf.distribute.get_replica_context()
    return context.merge_call(lambda _: next(_instances)) * len(_SIZES)


def _all_to_all(parts: tf.Tensor, instance: tf.Tensor | int) -> tf.Tensor:
    """Exchange parts (R, ...) of the same shape on all replicas."""
    context = tf.distribute.get_replica_context()
    return tf.raw_ops.CollectiveAllToAllV2(
        input=parts,
        group_size=context.num_replicas_in_sync,
        group_key=_GROUP,
        instance_key=instance,
        ordering_token=[],
    )
