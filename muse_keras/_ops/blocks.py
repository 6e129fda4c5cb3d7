"""Searches of a block of candidates at a time, to bound their memory."""

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from muse_keras._ops.shapes import is_static
from muse_keras._ops.top_k import stable_top_k

# Below every score: masked positions sort last.
_MASKED = -3e38
_MASKED_LIMIT = -1e38


def search_in_blocks(
    search: Callable[[Sequence[Any]], tuple[Any, Any]],
    columns: Sequence[Any],
    fills: Sequence[float],
    length: Any,
    k: int,
    block_size: int,
) -> tuple[Any, Any]:
    """Search for (B, C) candidates, a block of them at a time.

    `search` maps a block of the columns, float32 (B, c) or (B, c, D), to two
    float32 (B, c, K). `fills` are the values of the columns for candidates that
    fill up the last block. A block has at most `block_size` pairs with the
    `length` behaviors, but at least one candidate of each request.
    """
    batch, count = ops.shape(columns[0])[:2]
    if is_static(batch, count, length):
        size = max(1, block_size // max(1, batch * length))
        if size >= count:
            return search(columns)
        blocks = -(-count // size)
    else:
        per_candidate = ops.maximum(batch * length, 1)
        size = ops.floor_divide(block_size, per_candidate)
        size = ops.maximum(ops.minimum(size, count), 1)
        # A loop must run at least once to know the shape of its result.
        blocks = ops.maximum(ops.floor_divide(count + size - 1, size), 1)

    def split(tensor: Any, value: float) -> Any:
        width = tuple(ops.shape(tensor)[2:])
        missing = (batch, blocks * size - count, *width)
        padding = ops.full(missing, value, dtype="float32")
        tensor = ops.concatenate([tensor, padding], axis=1)
        tensor = ops.reshape(tensor, (batch, blocks, size, *width))
        return ops.transpose(tensor, (1, 0, 2, 3) if width else (1, 0, 2))

    def join(tensor: Any) -> Any:
        tensor = ops.transpose(tensor, (1, 0, 2, 3))
        return ops.reshape(tensor, (batch, blocks * size, k))[:, :count]

    parts = tuple(map(split, columns, fills))
    first, second = ops.map(search, parts)
    return join(first), join(second)


def top_products(
    candidates: Any, behaviors: Any, mask: Any, k: int, block_size: int
) -> tuple[Any, Any, Any]:
    """Return the K behaviors of the highest scalar product.

    Of equal products the smaller position comes first, on every backend. No
    gradient flows through. Candidates are (B, C, D), behaviors (B, L, D), the
    mask bool (B, L); at most `block_size` products are held at once.

    Returns products float32, positions float32 (exact below 2**24; TensorFlow
    keeps int32 arithmetic on the host) and a bool mask, each (B, C, K); 0 where
    nothing was found.
    """
    candidates = ops.cast(ops.stop_gradient(candidates), "float32")
    behaviors = ops.cast(ops.stop_gradient(behaviors), "float32")
    real = ops.cast(mask, "float32")
    batch, length, dim = ops.shape(behaviors)
    if not isinstance(length, int) or length < k:
        missing = k - length
        if not isinstance(length, int):
            missing = ops.maximum(missing, 0)
        zeros = ops.zeros((batch, missing, dim), dtype="float32")
        behaviors = ops.concatenate([behaviors, zeros], axis=1)
        zeros = ops.zeros((batch, missing), dtype="float32")
        real = ops.concatenate([real, zeros], axis=1)
    columns = ops.transpose(behaviors, (0, 2, 1))
    may_be_found = ops.expand_dims(real > 0.0, 1)

    def search(block: Sequence[Any]) -> tuple[Any, Any]:
        scores = ops.matmul(block[0], columns)
        masked = ops.full_like(scores, _MASKED)
        scores = ops.where(may_be_found, scores, masked)
        values, indices = stable_top_k(scores, k)
        return values, ops.cast(indices, "float32")

    values, positions = search_in_blocks(
        search,
        (candidates,),
        (0.0,),
        ops.shape(columns)[2],
        k,
        block_size,
    )
    found = values > _MASKED_LIMIT
    zeros = ops.zeros_like(values)
    return (
        ops.where(found, values, zeros),
        ops.where(found, positions, zeros),
        found,
    )
