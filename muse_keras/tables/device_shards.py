"""Tables spread by row over the devices of one server (TensorFlow).

Of S devices, shard s holds the rows r with r % S = s, at place r // S. Each
device reads its own rows of a lookup; only these are sent to the others.
"""

import contextlib
import contextvars
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from muse_keras._ops.rows import raw_variable
from muse_keras.tables.array_blocks import blocks

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
    stay as they are.

    Args:
        variables: of `keras.Variable`, the tables.
        count: int, number of shards.

    Yields:
        Dict of the variables' paths to their shards, copies of the rows.
    """
    shards = {
        variable.path: (variable, _split(variable, count))
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


def scatter_shards(
    shards: Sequence["tf.Variable"], rows: Any, values: Any
) -> Any:
    """Write rows, int64 (n,), of a spread table; return the operation."""
    import tensorflow as tf

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


def _split(variable: Any, count: int) -> list["tf.Variable"]:
    """Return copies of the rows of each shard, made block by block."""
    import tensorflow as tf

    whole = raw_variable(variable)
    rows, *width = whole.shape
    name = variable.path.replace("/", ".")
    shards = [
        tf.Variable(
            tf.zeros([-(-(rows - shard) // count), *width], whole.dtype),
            trainable=False,
            name=f"{name}.shard_{shard}",
        )
        for shard in range(count)
    ]
    for block in blocks(rows):
        places = tf.range(block.start, block.stop, dtype=tf.int64)
        values = tf.gather_nd(whole, places[:, tf.newaxis])
        for shard, place in zip(shards, _places(places, count), strict=True):
            own = tf.gather_nd(places, place) // count
            shard.scatter_update(
                tf.IndexedSlices(tf.gather(values, place[:, 0]), own)
            )
    return shards
