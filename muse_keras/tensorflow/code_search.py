"""Exact top-K by cosine of int8 codes, in TensorFlow graphs.

A scalar product of int8 codes is an exact integer, and the norm of the
candidate does not change its order of behaviors. So behaviors are ordered by
the *key* `product * |product| / squared norm`: one correctly rounded division
of integers, equal for equal cosines. The products of all pairs are one matrix
product; the expensive part is to choose K of 100,000 for each candidate. For
this, products are cut into blocks of `BLOCK` behaviors. The largest product of
a block bounds its keys, and the `WIDTH` blocks with the highest bounds are
searched exactly. If the K-th key found there is above the bound of every other
block, the result is proven, which is nearly always the case. The other
candidates (many behaviors tie, or few are similar at all) are searched again
with eight times as many blocks until their result is proven.

With `products="float32"` every op has a GPU kernel, and the sums stay exact,
because TensorFloat-32 holds 8-bit codes. `products="int8"` uses oneDNN's 8-bit
matrix product, which needs a quarter of the bytes and runs on CPUs only.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

# Behaviors per block, and blocks in the first search.
BLOCK = 20
WIDTH = 64
# Shorter histories are searched completely.
SHORT = 4_096
# Below every key: a key is at least -(2**21).
MASKED = -1e30
# Factor that exceeds the rounding error of a bound in float32.
_UP = 1.0 + 2.0**-20
# Makes int8 codes unsigned.
_OFFSET = 128

_PRODUCTS: contextvars.ContextVar[str] = contextvars.ContextVar(
    "muse_products", default="float32"
)


class _History(NamedTuple):
    """One user's behaviors, padded to N whole blocks.

    Attributes:
        codes: (N * BLOCK, D), float32, or uint8 with 128 added.
        squares: float64 (N * BLOCK,), squared norms; 0 = masked.
        factors: float32 (N, 1), upper bounds of 1 / norm in each block.
        penalties: float32 (N, 1), `MASKED` if a whole block is masked, else 0.
    """

    codes: tf.Tensor
    squares: tf.Tensor
    factors: tf.Tensor
    penalties: tf.Tensor


class _Found(NamedTuple):
    """The result for C candidates.

    Attributes:
        keys: float64 (C, K), descending.
        positions: int64 (C, K).
        proven: int64 (C,), 1 if the result is proven to be exact.
    """

    keys: tf.Tensor
    positions: tf.Tensor
    proven: tf.Tensor


@contextlib.contextmanager
def int8_products() -> Iterator[None]:
    """Trace searches with 8-bit matrix products, for CPUs only.

    A graph traced inside this context needs an x86 processor with 8-bit dot
    products (AVX-512 VNNI, AVX-VNNI) and a TensorFlow built with oneDNN, like
    its Linux packages; `has_int8_products` tells whether both are there.
    """
    token = _PRODUCTS.set("int8")
    try:
        yield
    finally:
        _PRODUCTS.reset(token)


def has_int8_products() -> bool:
    """Tell whether 8-bit matrix products run here and are exact.

    Older processors add pairs of products in 16 bits, which may overflow.
    """
    codes = np.full((8, 64), 127, np.int8)
    codes[1::2] = -127
    try:
        dots = tf.function(products)(
            tf.constant(codes), _unsigned(tf.constant(codes))
        )
    except tf.errors.OpError:
        return False
    wide = codes.astype(np.int64)
    return bool((dots.numpy() == wide @ wide.T).all())


def search_codes(
    candidates: tf.Tensor,
    behaviors: tf.Tensor,
    squares: tf.Tensor,
    k: int,
    block_size: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the K behaviors with the highest cosines to each candidate.

    Candidates are int8 (B, C, D) and behaviors int8 (B, L, D); `squares`,
    float64 (B, L), are the squared norms of behaviors, 0 to exclude one. At
    most `block_size` products are in memory at a time.

    Returns cosines float64 (B, C, K), descending, `MASKED` where there are no
    more behaviors, and positions int64 (B, C, K), ascending for equal cosines.
    """

    def in_blocks() -> tuple[tf.Tensor, tf.Tensor]:
        codes = _as_multiplied(candidates, behaviors)
        # Maps over indices, because a slice of one user's codes is no copy,
        # unlike an element of a mapped tensor.
        return tf.map_fn(
            lambda user: _search_history(
                codes[0][user], codes[1][user], squares[user], k, block_size
            ),
            tf.range(tf.shape(squares)[0]),
            fn_output_signature=(
                tf.TensorSpec([None, k], tf.float64),
                tf.TensorSpec([None, k], tf.int64),
            ),
            parallel_iterations=1,
        )

    def whole() -> tuple[tf.Tensor, tf.Tensor]:
        return _search_whole(candidates, behaviors, squares, k)

    batch, length, _ = behaviors.shape
    if None not in (batch, length, candidates.shape[1]):
        pairs = batch * length * candidates.shape[1]
        is_long = batch > 0 and (length >= SHORT or pairs > block_size)
        keys, positions = in_blocks() if is_long else whole()
    else:
        sizes = tf.shape(behaviors, tf.int64)
        pairs = sizes[0] * sizes[1] * tf.shape(candidates, tf.int64)[1]
        is_long = tf.logical_or(sizes[1] >= SHORT, pairs > block_size)
        # The shape of a loop's result is known only if it runs at least once.
        is_long = tf.logical_and(is_long, sizes[0] > 0)
        keys, positions = tf.cond(is_long, in_blocks, whole)
    shape = (*candidates.shape[:2], k)
    cosines = _cosines(tf.ensure_shape(keys, shape), candidates)
    return cosines, tf.ensure_shape(positions, shape)


def _as_multiplied(
    candidates: tf.Tensor, behaviors: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Cast codes to the types in which they are multiplied."""
    if _PRODUCTS.get() == "int8":
        return candidates, _unsigned(behaviors)
    return tf.cast(candidates, tf.float32), tf.cast(behaviors, tf.float32)


def squared_norms(codes: tf.Tensor) -> tf.Tensor:
    """Return the squared norms of int8 codes (..., D) as float64."""
    wide = tf.cast(codes, tf.float32)
    return tf.cast(tf.reduce_sum(wide * wide, axis=-1), tf.float64)


def squares_of_inverse_norms(inverse_norms: tf.Tensor) -> tf.Tensor:
    """Return the squared norms that belong to float32 inverse norms.

    Squared norms of codes are integers, and float32 is precise enough to
    recover them.
    """
    inverse = tf.cast(inverse_norms, tf.float64)
    squares = tf.math.divide_no_nan(tf.ones_like(inverse), inverse * inverse)
    return tf.round(squares)


def _search_whole(
    candidates: tf.Tensor, behaviors: tf.Tensor, squares: tf.Tensor, k: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return keys and positions (B, C, K), computed from all keys."""
    missing = tf.maximum(k - tf.shape(behaviors)[1], 0)
    behaviors = tf.pad(behaviors, [[0, 0], [0, missing], [0, 0]])
    squares = tf.pad(squares, [[0, 0], [0, missing]])
    dots = tf.matmul(
        tf.cast(candidates, tf.float32),
        tf.cast(behaviors, tf.float32),
        transpose_b=True,
    )
    return _top_k(_keys(dots, squares[:, tf.newaxis, :]), k)


def _search_history(
    candidates: tf.Tensor,
    behaviors: tf.Tensor,
    squares: tf.Tensor,
    k: int,
    block_size: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return keys and positions (C, K) in one history (L, D)."""
    history = _prepare(behaviors, squares, k)

    def search(chosen: tf.Tensor, width: tf.Tensor) -> _Found:
        return _search_groups(chosen, history, k, width, block_size)

    def search_wider(found: _Found, width: tf.Tensor) -> tuple[Any, Any]:
        doubtful = tf.where(tf.equal(found.proven, 0))
        width = 8 * width
        wider = search(tf.gather_nd(candidates, doubtful), width)
        updated = [
            tf.tensor_scatter_nd_update(old, doubtful, new)
            for old, new in zip(found, wider, strict=True)
        ]
        return _Found(*updated), width

    width = tf.constant(max(WIDTH, k + WIDTH // 4), tf.int64)
    found, _ = tf.while_loop(
        lambda found, _: tf.reduce_any(tf.equal(found.proven, 0)),
        search_wider,
        (search(candidates, width), width),
        parallel_iterations=1,
        name="until_proven",
    )
    return found.keys, found.positions


def _prepare(behaviors: tf.Tensor, squares: tf.Tensor, k: int) -> _History:
    """Pad a history to whole blocks and bound the norms in each."""
    length = tf.shape(behaviors)[0]
    missing = -(-tf.maximum(length, k) // BLOCK) * BLOCK - length
    zero = _OFFSET if behaviors.dtype == tf.uint8 else 0
    behaviors = tf.pad(
        behaviors,
        [[0, missing], [0, 0]],
        constant_values=tf.constant(zero, behaviors.dtype),
    )
    squares = tf.pad(squares, [[0, missing]])
    smallest = tf.reduce_min(
        tf.reshape(tf.where(squares > 0.0, squares, np.inf), (-1, BLOCK)),
        axis=1,
        keepdims=True,
    )
    factors = tf.cast(1.0 / tf.sqrt(smallest), tf.float32) * _UP
    return _History(
        behaviors,
        squares,
        factors,
        tf.where(factors > 0.0, 0.0, tf.constant(MASKED, tf.float32)),
    )


def _search_groups(
    candidates: tf.Tensor,
    history: _History,
    k: int,
    width: tf.Tensor,
    block_size: int,
) -> _Found:
    """Search for (C, D) in groups that are small enough to bound memory."""
    length = tf.shape(history.codes, tf.int64)[0]
    count = tf.shape(candidates, tf.int64)[0]
    # Each key that is computed exactly holds up to four numbers.
    held = tf.maximum(length, 4 * width * BLOCK)
    size = tf.maximum(block_size // held, 1)
    # Groups have equal size and are not empty; the last is padded with zeros.
    groups = tf.maximum(-(-count // size), 1)
    size = tf.maximum(-(-count // groups), 1)
    padded = tf.pad(candidates, [[0, groups * size - count], [0, 0]])
    found = tf.map_fn(
        lambda group: _search_blocks(group, history, k, width),
        tf.reshape(padded, (groups, size, candidates.shape[1])),
        fn_output_signature=_Found(
            tf.TensorSpec([None, k], tf.float64),
            tf.TensorSpec([None, k], tf.int64),
            tf.TensorSpec([None], tf.int64),
        ),
        parallel_iterations=1,
    )
    return _Found(
        tf.reshape(found.keys, (-1, k))[:count],
        tf.reshape(found.positions, (-1, k))[:count],
        tf.reshape(found.proven, (-1,))[:count],
    )


def _search_blocks(
    candidates: tf.Tensor, history: _History, k: int, width: tf.Tensor
) -> _Found:
    """Search the `width` most promising blocks for each of (C, D)."""
    count = tf.shape(candidates, tf.int64)[0]
    dots = products(candidates, history.codes)
    largest = tf.reduce_max(tf.reshape(dots, (-1, BLOCK, count)), axis=1)
    # A negative bound serves to order blocks, but does not bound their keys.
    bounds = tf.cast(largest, tf.float32) * history.factors + history.penalties
    # An additional lowest column stands for no block.
    bounds = tf.pad(
        tf.transpose(bounds), [[0, 0], [0, 1]], constant_values=MASKED
    )
    width = tf.minimum(width, tf.shape(bounds, tf.int64)[1] - 1)
    highest, blocks = _top_k(bounds, tf.cast(width + 1, tf.int32))
    # Sorted by position, so that the first of equal keys is chosen.
    blocks = tf.sort(blocks[:, :width], axis=1)
    members = tf.range(BLOCK, dtype=tf.int64)
    positions = blocks[:, :, tf.newaxis] * BLOCK + members
    positions = tf.reshape(positions, (count, width * BLOCK))
    column = tf.range(count, dtype=tf.int64)[:, tf.newaxis]
    keys = _keys(
        tf.gather(tf.reshape(dots, (-1,)), positions * count + column),
        tf.gather(history.squares, positions),
    )
    keys, best = _top_k(keys, k)
    others, worst = highest[:, -1], keys[:, -1]
    above = worst > tf.square(tf.cast(tf.nn.relu(others), tf.float64))
    nothing_else = tf.less_equal(others, MASKED)
    # A zero vector finds nothing, so its keys do not matter.
    empty = tf.reduce_all(tf.equal(candidates, 0), axis=1)
    return _Found(
        keys,
        tf.gather(positions, best, batch_dims=1),
        tf.cast(above | nothing_else | empty, tf.int64),
    )


def products(candidates: tf.Tensor, codes: tf.Tensor) -> tf.Tensor:
    """Return exact scalar products (N, C) of (C, D) and (N, D)."""
    if codes.dtype == tf.float32:
        return tf.matmul(codes, candidates, transpose_b=True)
    sums = tf.reduce_sum(tf.cast(candidates, tf.int32), axis=1)
    dots = tf.raw_ops.QuantizedMatMulWithBias(
        a=tf.bitcast(codes, tf.quint8),
        b=tf.bitcast(tf.transpose(candidates), tf.qint8),
        bias=tf.bitcast(-_OFFSET * sums, tf.qint32),
        min_a=0.0,
        max_a=255.0,
        min_b=-127.0,
        max_b=127.0,
        input_quant_mode="SCALED",
    ).out
    return tf.bitcast(dots, tf.int32)


def _top_k(
    values: tf.Tensor, k: int | tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return values and int64 indices; equal values in order of index."""
    # The op that returns int64 itself has no GPU kernel.
    highest, indices = tf.math.top_k(values, k)
    return highest, tf.cast(indices, tf.int64)


def _unsigned(codes: tf.Tensor) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(
        tf.bitcast(codes, tf.uint8), tf.constant(_OFFSET, tf.uint8)
    )


def _keys(dots: tf.Tensor, squares: tf.Tensor) -> tf.Tensor:
    """Return float64 keys, `MASKED` where the squared norm is 0."""
    dots = tf.cast(dots, tf.float64)
    real = squares > 0.0
    keys = dots * tf.abs(dots) / tf.where(real, squares, 1.0)
    return tf.where(real, keys, tf.constant(MASKED, tf.float64))


def _cosines(keys: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
    """Return cosines for keys (B, C, K); `MASKED` stays."""
    squares = squared_norms(candidates)[:, :, tf.newaxis]
    real = tf.logical_and(keys > MASKED, squares > 0.0)
    ratios = keys / tf.where(squares > 0.0, squares, 1.0)
    cosines = tf.sign(ratios) * tf.sqrt(tf.abs(ratios))
    return tf.where(real, cosines, tf.constant(MASKED, tf.float64))
