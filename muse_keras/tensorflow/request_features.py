"""Features of one ranking request, computed the same way everywhere.

Every op has a GPU kernel for its dtypes. Index arithmetic is int64, because
TensorFlow keeps int32 arithmetic on the host.
"""

import tensorflow as tf


def newest_mask(
    behavior_item_ids: tf.Tensor, max_history: int | None = None
) -> tf.Tensor:
    """Mark the newest real behaviors of every history.

    A behavior is real if its item id is not 0. The oldest behavior comes first;
    padding may be anywhere.

    Args:
        behavior_item_ids: int64 (B, L), 0 = padding.
        max_history: int of at least 1, how many real behaviors to keep; None
            keeps all.

    Returns:
        bool (B, L), True for the newest `max_history` real behaviors.

    Raises:
        ValueError: if `max_history` is less than 1.
    """
    real = tf.not_equal(behavior_item_ids, 0)
    if max_history is None:
        return real
    if max_history < 1:
        raise ValueError(
            "`max_history` must be at least 1, or None for no limit. "
            f"Received: max_history={max_history}"
        )
    age = tf.cumsum(tf.cast(real, tf.int64), axis=1, reverse=True)
    return tf.logical_and(real, age <= max_history)


def feature_matches(
    behavior_values: tf.Tensor,
    mask: tf.Tensor,
    candidate_values: tf.Tensor,
    size: int | tf.Tensor,
) -> tf.Tensor:
    """Count the behaviors that share the value of each candidate.

    A histogram per request takes O(L + C + size) and is exact below 2**24
    behaviors. If a feature has many values, the counts of all values of a
    candidate are added up.

    Args:
        behavior_values: int32 or int64 (B, L) or (B, L, W), vocabulary
            indices in [0, size).
        mask: bool (B, L), True = count this behavior.
        candidate_values: int32 or int64 (B, C) or (B, C, W), vocabulary
            indices in [0, size).
        size: int or integer scalar tensor, number of vocabulary indices,
            including missing (0) and out-of-vocabulary.

    Returns:
        float32 (B, C): the count; 0 for a candidate with the value 0.
    """
    behaviors = tf.cast(behavior_values, tf.int64)
    candidates = tf.cast(candidate_values, tf.int64)
    many = candidates.shape.rank == 3
    if many:
        shape = tf.shape(candidates)
        mask = tf.repeat(mask, behaviors.shape[2], axis=1)
        behaviors = tf.reshape(behaviors, tf.shape(mask))
        candidates = tf.reshape(candidates, [shape[0], shape[1] * shape[2]])
    histogram = tf.raw_ops.DenseBincount(
        input=tf.where(mask, behaviors, tf.zeros_like(behaviors)),
        size=tf.cast(size, tf.int64),
        weights=tf.cast(mask, tf.float32),
        binary_output=False,
    )
    counts = tf.gather(histogram, candidates, batch_dims=1)
    counts = tf.where(tf.equal(candidates, 0), tf.zeros_like(counts), counts)
    return tf.reduce_sum(tf.reshape(counts, shape), axis=2) if many else counts
