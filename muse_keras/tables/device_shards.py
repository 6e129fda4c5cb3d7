"""Tables spread by row over the devices of one server (TensorFlow).

Of S devices, shard s holds the rows r with r % S = s, at place r // S. Each
device reads its own rows of a lookup; only these are sent to the others.
"""

import contextlib
import contextvars
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from muse_keras._ops.rows import raw_variable, table_rows

if TYPE_CHECKING:
    import tensorflow as tf

_spread: contextvars.ContextVar[Mapping[int, Sequence[Any]]] = (
    contextvars.ContextVar("spread", default={})  # noqa: B039 (not changed)
)


@contextlib.contextmanager
def spread_rows(
    variables: Iterable[Any], count: int
) -> Iterator[dict[str, list["tf.Variable"]]]:
    """Let functions that are traced inside read shards of tables.

    `gather_rows` and `scatter_rows` use them instead of the variables, which
    may hold no rows. The shards have no values: `restore_shards` reads them
    from files when the traced functions are loaded.

    Args:
        variables: of `keras.Variable`, the tables.
        count: int, number of shards.

    Yields:
        Dict of the variables' paths to their shards.
    """
    shards = {
        variable.path: (variable, _without_values(variable, count))
        for variable in variables
    }
    token = _spread.set(
        {id(raw_variable(whole)): parts for whole, parts in shards.values()}
    )
    try:
        yield {path: parts for path, (_, parts) in shards.items()}
    finally:
        _spread.reset(token)


def shards_of(variable: Any) -> Sequence[Any]:
    """Return the shards to read in place of a variable, or nothing."""
    spread = _spread.get()
    return spread.get(id(raw_variable(variable)), ()) if spread else ()


def gather_shards(shards: Sequence["tf.Variable"], rows: Any) -> Any:
    """Return rows, int64 of any shape in [0, N), of a spread table."""
    import tensorflow as tf

    if len(shards) == 1:
        return tf.gather_nd(shards[0], tf.expand_dims(rows, -1))
    flat = tf.reshape(rows, [-1])
    places, values = [], []
    for shard, place in zip(shards, _places(flat, len(shards)), strict=True):
        own = tf.gather_nd(flat, place) // len(shards)
        places.append(place)
        values.append(tf.gather_nd(shard, own[:, tf.newaxis]))
    width = shards[0].shape[1:]
    size = tf.concat(
        [tf.shape(flat, tf.int64), tf.constant([*width], tf.int64)], 0
    )
    # Each place occurs once. `GatherNd` has no GPU kernel for int8.
    found = tf.scatter_nd(tf.concat(places, 0), tf.concat(values, 0), size)
    shape = tf.concat([tf.shape(rows, tf.int64), size[1:]], 0)
    return tf.ensure_shape(tf.reshape(found, shape), [*rows.shape, *width])


def restore_shards(
    shards: Sequence["tf.Variable"], prefix: Any, name: str, num_rows: int
) -> None:
    """Read a table from files, block by block, in a graph.

    Args:
        shards: of the table, whose rows after the stored ones become zero.
        prefix: string tensor (), of a checkpoint by `row_files` with one
            column.
        name: str, of the table there.
        num_rows: int, rows that are stored.
    """
    import tensorflow as tf

    from muse_keras.tables import row_files

    shape = (num_rows, 1, *shards[0].shape[1:])
    for shard in shards:
        assign_zeros(shard)

    written: list[Any] = []
    for blocks in row_files.groups(shape, shards[0].dtype):
        with tf.control_dependencies(written):
            dtype = shards[0].dtype
            found = row_files.read(prefix, name, shape, dtype, blocks)
        written = []
        for block, values in zip(blocks, found, strict=True):
            rows = tf.range(block.start, block.stop, dtype=tf.int64)
            written.append(scatter_shards(shards, rows, values))


def assign_zeros(variable: "tf.Variable") -> None:
    """Fill a variable with zeros so that its rows can be written in place.

    TensorFlow shares the result of `tf.zeros` with others, so that the first
    write of a row would copy the whole variable, and keep both.
    """
    import tensorflow as tf

    shape = variable.shape.as_list()
    variable.assign(
        tf.raw_ops.Empty(shape=shape, dtype=variable.dtype, init=True)
    )


def scatter_shards(
    shards: Sequence["tf.Variable"], rows: Any, values: Any
) -> Any:
    """Write rows, int64 (n,), of a spread table; return the operation."""
    import tensorflow as tf

    if len(shards) == 1:
        return tf.raw_ops.ResourceScatterUpdate(
            resource=shards[0].handle, indices=rows, updates=values
        )
    written = []
    for shard, place in zip(shards, _places(rows, len(shards)), strict=True):
        written.append(
            tf.raw_ops.ResourceScatterUpdate(
                resource=shard.handle,
                indices=tf.gather_nd(rows, place) // len(shards),
                updates=tf.gather_nd(values, place),
            )
        )
    return tf.group(written)


def _places(rows: Any, count: int) -> Iterator[Any]:
    """Yield the places int64 (n, 1) of the rows of each shard."""
    import tensorflow as tf

    owner = rows % count
    for shard in range(count):
        yield tf.where(owner == shard)


def _without_values(variable: Any, count: int) -> list["tf.Variable"]:
    """Return variables for the rows of each shard."""
    from muse_keras.tensorflow import internals

    rows = table_rows(variable)
    name = variable.path.replace("/", ".")
    shards = []
    for shard in range(count):
        made = internals.variable_without_value(
            f"{name}.shard_{shard}",
            [-(-(rows - shard) // count), *variable.shape[1:]],
            raw_variable(variable).dtype,
        )
        internals.keep_out_of_checkpoints(made)
        shards.append(made)
    return shards
