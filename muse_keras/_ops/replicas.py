"""Sums over the replicas of a distribution strategy."""

from typing import Any

import keras


def sum_over_replicas(tensor: Any) -> Any:
    """Return the sum of a tensor over all replicas that run in step.

    Under `tf.distribute` each replica sees its own share of the batch; this
    gives all of them the same total, with gradients. Elsewhere the program
    sees the whole batch and the tensor is returned as it is.

    Args:
        tensor: float tensor of the same shape on every replica.
    """
    if keras.backend.backend() != "tensorflow":
        return tensor
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tensor
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensor)
