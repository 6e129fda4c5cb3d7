"""State, sums and gathers over the replicas of a distribution strategy."""

from typing import Any

import keras


def add_state(
    layer: keras.layers.Layer,
    name: str,
    shape: tuple[int, ...] = (),
    dtype: str = "float32",
    initializer: str = "zeros",
) -> Any:
    """Add a weight that is not trained and is the same on every replica."""
    return layer.add_weight(
        shape=shape,
        initializer=initializer,
        dtype=dtype,
        trainable=False,
        autocast=False,
        aggregation="only_first_replica",
        name=name,
    )


def replica_count() -> int:
    """Return how many replicas of a `tf.distribute` strategy run in step."""
    context = _replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def sum_over_replicas(tensor: Any) -> Any:
    """Return the sum of a tensor over all replicas that run in step.

    Under `tf.distribute` each replica sees its own share of the batch; all get
    the same total, with gradients. Elsewhere the tensor is returned as it is.
    """
    context = _replica_context()
    if context is None:
        return tensor
    import tensorflow as tf

    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensor)


def mean_over_replicas(values: Any) -> Any:
    """Return the mean of a structure of tensors over all replicas.

    All get the same; elsewhere the values are returned as they are.
    """
    context = _replica_context()
    if context is None:
        return values
    import tensorflow as tf

    return context.all_reduce(tf.distribute.ReduceOp.MEAN, values)


def gather_over_replicas(tensor: Any) -> Any:
    """Return the rows of all replicas, the same on each, in their order.

    Has gradients; replicas may have different numbers of rows. Elsewhere the
    tensor is returned as it is.
    """
    context = _replica_context()
    if context is None:
        return tensor
    import tensorflow as tf

    # Sum tensors that are zero outside of the own rows: faster than
    # `all_gather` here.
    rows = tf.shape(tensor, out_type=tf.int64)[0]
    own = tf.one_hot(
        context.replica_id_in_sync_group,
        context.num_replicas_in_sync,
        dtype=tf.int64,
    )
    counts = context.all_reduce(tf.distribute.ReduceOp.SUM, own * rows)
    total = tf.reduce_sum(counts)
    start = tf.reduce_sum(own * tf.cumsum(counts, exclusive=True))
    others = [[0, 0]] * (len(tensor.shape) - 1)
    padded = tf.pad(tensor, [[start, total - start - rows], *others])
    return context.all_reduce(tf.distribute.ReduceOp.SUM, padded)


def uniform_over_replicas(shape: tuple[Any, ...], seed: Any) -> Any:
    """Return random numbers in [0, 1) for this replica's share of a batch.

    Together the replicas get the numbers of one device with the whole batch,
    whose other axes are as long as the longest of all replicas. Each must have
    the same number of rows.

    Args:
        shape: shape (rows, ...) of the share.
        seed: see `keras.random.uniform`.
    """
    context = _replica_context()
    if context is None:
        return keras.random.uniform(shape, seed=seed)
    rows, *own = shape
    if own:
        every = gather_over_replicas(keras.ops.stack([own]))
        widths = keras.ops.max(every, axis=0)
        others = [widths[axis] for axis in range(len(own))]
    else:
        others = []
    count = context.num_replicas_in_sync
    whole = keras.random.uniform((rows * count, *others), seed=seed)
    first = rows * context.replica_id_in_sync_group
    share = (slice(first, first + rows), *(slice(width) for width in own))
    return whole[share]


def _replica_context() -> Any:
    """Return the context of one of several replicas, otherwise None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    return context
