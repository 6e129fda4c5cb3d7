"""Static shapes where known, dynamic ones where not."""

from typing import Any

from keras import ops

from muse_keras._ops.checks import check_inputs, same_axes


def is_static(*dims: Any) -> bool:
    """Tell whether all dimensions are Python integers."""
    return all(isinstance(dim, int) for dim in dims)


def has_content(vectors: Any) -> Any:
    """Tell which vectors (..., D) are not zero, bool (...)."""
    return ops.any(ops.not_equal(vectors, 0.0), axis=-1)


def masked_mean(values: Any, mask: Any) -> Any:
    """Return the mean (B, E) of real positions of (B, L, E), zeros for none."""
    weights = ops.cast(mask, "float32")
    count = ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1.0)
    weights = ops.cast(weights / count, values.dtype)
    return ops.sum(values * ops.expand_dims(weights, -1), axis=1)


def mean_of_given(vectors: Any, indices: Any) -> Any:
    """Return the mean (..., E) of vectors (..., V, E) of indices but 0.

    Where all indices are 0, for nothing was given, it is the vector of 0.
    """
    given = ops.cast(
        ops.not_equal(ops.cast(indices, "float32"), 0.0), "float32"
    )
    some = ops.max(given, axis=-1, keepdims=True) > 0.0
    given = ops.where(some, given, ops.ones_like(given))
    weights = given / ops.sum(given, axis=-1, keepdims=True)
    weights = ops.cast(ops.expand_dims(weights, -1), vectors.dtype)
    return ops.sum(vectors * weights, axis=-2)


def weights_of(values: Any, sample_weight: Any) -> Any:
    """Return a weight for each value, in the shape and dtype of `values`.

    `sample_weight` may have the shape of `values`, that of their first axes, a
    last axis of 1, or none. Messages call `values` `y_pred`.
    """
    weights = ops.cast(ops.convert_to_tensor(sample_weight), values.dtype)
    axes = same_axes(values)
    own = axes[: len(weights.shape)]
    if len(own) > 1 and weights.shape[-1] == 1:
        own = own[:-1] + "1"
    if weights.shape != ():
        check_inputs(y_pred=(values, axes), sample_weight=(weights, own))
    while len(weights.shape) < len(axes):
        weights = ops.expand_dims(weights, -1)
    return weights * ops.ones_like(values)
