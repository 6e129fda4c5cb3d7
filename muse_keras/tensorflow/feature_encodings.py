"""Encodes raw values of a feature as indices or numbers for a model.

Transform and the exported signatures both call these functions. Every op has
a GPU kernel for its dtypes; see `request_features`. A missing value is 0 for
integers and NaN for floats.
"""

import tensorflow as tf

# The 64-bit finalizer of MurmurHash3: each step is a bijection.
_MULTIPLIERS = (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)


def hashed_index(ids: tf.Tensor, buckets: int) -> tf.Tensor:
    """Return the bucket of each id.

    The upper half of a 64-bit hash is scaled to the number of buckets, because
    the remainder of int64 has no GPU kernel.

    Args:
        ids: int64 (...), 0 where missing.
        buckets: int, at least 1 and below 2**32.

    Returns:
        int64 (...): from 1 to `buckets`, 0 where missing.
    """
    bits = tf.bitcast(ids, tf.uint64)
    for multiplier in _MULTIPLIERS:
        bits = _folded(bits, 33) * tf.constant(multiplier, tf.uint64)
    upper = _shifted(_folded(bits, 33), 32)
    scaled = _shifted(upper * tf.constant(buckets, tf.uint64), 32)
    index = tf.bitcast(scaled, tf.int64) + 1
    return tf.where(tf.equal(ids, 0), tf.zeros_like(index), index)


def bucket_index(values: tf.Tensor, boundaries: tf.Tensor) -> tf.Tensor:
    """Return the bucket of each number.

    Args:
        values: float32 (...), NaN where missing.
        boundaries: float32 (n,), rising.

    Returns:
        int64 (...): 1 + the number of boundaries that are not above the value,
        0 where missing.
    """
    missing = tf.math.is_nan(values)
    flat = tf.reshape(tf.where(missing, tf.zeros_like(values), values), [1, -1])
    below = tf.raw_ops.UpperBound(
        sorted_inputs=boundaries[tf.newaxis],
        values=flat,
        out_type=tf.int64,
    )
    index = tf.reshape(below + 1, tf.shape(values))
    return tf.where(missing, tf.zeros_like(index), index)


def standardized(
    values: tf.Tensor, mean: tf.Tensor, scale: tf.Tensor, log: bool
) -> tf.Tensor:
    """Return standardized numbers, each with a flag.

    Args:
        values: float32 (...); NaN and infinite values are missing.
        mean: float32 (), subtracted from each value.
        scale: float32 (), the divisor; if it is 0, all numbers are 0.
        log: bool, whether to apply `log_of` first.

    Returns:
        float32 (..., 2): the number and 1, or 0 and 0 where it is missing.
    """
    given = tf.math.is_finite(values)
    known = tf.where(given, values, tf.zeros_like(values))
    numbers = tf.math.divide_no_nan(
        (log_of(known) if log else known) - mean, scale
    )
    numbers = tf.where(given, numbers, tf.zeros_like(numbers))
    return tf.stack([numbers, tf.cast(given, tf.float32)], axis=-1)


def log_of(values: tf.Tensor) -> tf.Tensor:
    """Return `sign(x) * log(1 + |x|)` of float32 (...)."""
    return tf.sign(values) * tf.math.log1p(tf.abs(values))


def flagged(vectors: tf.Tensor) -> tf.Tensor:
    """Return vectors, each with a flag as its last number.

    Args:
        vectors: float32 (..., D); a vector is missing if its first number is
            NaN.

    Returns:
        float32 (..., D + 1): the vector (0 for NaN) and 1, or all zeros where
        it is missing.
    """
    missing = tf.math.is_nan(vectors)
    given = tf.logical_not(missing[..., :1])
    known = tf.where(
        tf.logical_and(given, tf.logical_not(missing)),
        vectors,
        tf.zeros_like(vectors),
    )
    return tf.concat([known, tf.cast(given, tf.float32)], axis=-1)


def _folded(bits: tf.Tensor, shift: int) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(bits, _shifted(bits, shift))


def _shifted(bits: tf.Tensor, shift: int) -> tf.Tensor:
    return tf.bitwise.right_shift(bits, tf.constant(shift, tf.uint64))
