"""Base class of the target attentions."""

from typing import Any

import keras
from keras import ops

from muse_keras._ops.checks import check_inputs, integer, shape_of

# Far below any logit, and far from overflow, in float32.
_MASKED_LOGIT = -1e9


class ProjectedAttention(keras.layers.Layer):
    """Projections, scaled dot products and the sum of values.

    See `TargetAttention` for the arguments. A subclass makes weights with
    `_build_projections`, and calls `_logits` and `_attend`.
    """

    def __init__(
        self,
        num_heads: int = 1,
        key_dim: int | None = None,
        value_dim: int | None = None,
        activation: Any = None,
        kernel_initializer: Any = "glorot_uniform",
        use_bias: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = integer("num_heads", num_heads)
        if key_dim is not None:
            key_dim = integer("key_dim", key_dim)
        if value_dim is not None:
            value_dim = integer("value_dim", value_dim)
        self.key_dim = key_dim
        self.value_dim = value_dim
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.use_bias = use_bias
        self.query_bias: Any = None
        self.key_bias: Any = None
        self.value_bias: Any = None
        # The mask is consumed here, not passed on.
        self.supports_masking = True

    def compute_mask(self, *args: Any, **kwargs: Any) -> None:
        """Return None: the output has no masked positions."""
        return None

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(
                self.kernel_initializer
            ),
            "use_bias": self.use_bias,
        }

    def queries(self, target: Any) -> Any:
        """Return the scaled queries of candidates, all heads side by side.

        Their scalar products with `keys` are the attention's logits before
        the softmax, summed over the heads.

        Args:
            target: float (B, C, E).

        Returns:
            (B, C, num_heads * key_dim).
        """
        query = self._project(target, self.query_kernel, self.query_bias)
        return _flat_heads(query * (query.shape[-1] ** -0.5))

    def keys(self, behaviors: Any) -> Any:
        """Return the keys of behaviors, all heads side by side.

        Args:
            behaviors: float (..., E').

        Returns:
            (..., num_heads * key_dim).
        """
        return _flat_heads(
            self._project(behaviors, self.key_kernel, self.key_bias)
        )

    def _check(
        self,
        target: Any,
        behaviors: Any,
        similarities: Any = None,
        mask: Any = None,
    ) -> None:
        # A target of rank 2 is one candidate of each request.
        one = len(shape_of(target)) == 2
        check_inputs(
            target=(target, "BE BCE", "floats"),
            behaviors=(behaviors, "BKF" if one else "BKF BCKF", "floats"),
            similarities=(similarities, "BK" if one else "BCK", "floats"),
            mask=(mask, "BK" if one else "BK BCK"),
        )

    def _output_spec(
        self, target: Any, behaviors: Any, return_scores: bool
    ) -> Any:
        """Return the shapes and dtypes of what `_attend` returns."""
        *pairs, dim = target.shape
        _, value_dim = self._head_dims(dim)
        output = keras.KerasTensor(
            (*pairs, self.num_heads * value_dim), self.compute_dtype
        )
        if not return_scores:
            return output
        scores = (*pairs, self.num_heads, behaviors.shape[-2])
        return output, keras.KerasTensor(scores, "float32")

    def _head_dims(self, target_dim: int) -> tuple[int, int]:
        """Return the sizes of one head's key and value."""
        key_dim = self.key_dim
        if key_dim is None:
            if target_dim % self.num_heads:
                raise ValueError(
                    "The width of `target` must be a multiple of `num_heads` "
                    "unless `key_dim` is given. Received: "
                    f"num_heads={self.num_heads}, target width={target_dim}"
                )
            key_dim = target_dim // self.num_heads
        return key_dim, self.value_dim or key_dim

    def _build_projections(
        self, target_shape: Any, behaviors_shape: Any
    ) -> None:
        target_dim, behavior_dim = target_shape[-1], behaviors_shape[-1]
        key_dim, value_dim = self._head_dims(target_dim)
        for name, rows, dim in (
            ("query", target_dim, key_dim),
            ("key", behavior_dim, key_dim),
            ("value", behavior_dim, value_dim),
        ):
            kernel = self.add_weight(
                shape=(rows, self.num_heads * dim),
                initializer=_copy(self.kernel_initializer),
                name=f"{name}_kernel",
            )
            setattr(self, f"{name}_kernel", kernel)
            if self.use_bias:
                bias = self.add_weight(
                    shape=(self.num_heads * dim,),
                    initializer="zeros",
                    name=f"{name}_bias",
                )
                setattr(self, f"{name}_bias", bias)

    def _project(self, tensor: Any, kernel: Any, bias: Any) -> Any:
        """Return (..., heads, size) projections of (..., E)."""
        kernel = ops.cast(kernel, tensor.dtype)
        shape = ops.shape(tensor)
        # One matrix product: as a batch of them, the gradient would hold a
        # kernel for each candidate before it sums them.
        flat = ops.reshape(tensor, (-1, tensor.shape[-1]))
        projected = ops.matmul(flat, kernel)
        if bias is not None:
            projected = projected + ops.cast(bias, tensor.dtype)
        projected = self.activation(projected)
        size = kernel.shape[-1] // self.num_heads
        return ops.reshape(projected, (*shape[:-1], self.num_heads, size))

    def _logits(self, target: Any, behaviors: Any) -> Any:
        """Return scaled dot products, float32 (B, C, heads, K)."""
        query = self._project(target, self.query_kernel, self.query_bias)
        query = query * (query.shape[-1] ** -0.5)
        key = self._project(behaviors, self.key_kernel, self.key_bias)
        if len(behaviors.shape) == 3:
            # (B, H, C, d) x (B, H, d, K)
            logits = ops.matmul(
                ops.transpose(query, (0, 2, 1, 3)),
                ops.transpose(key, (0, 2, 3, 1)),
            )
            logits = ops.transpose(logits, (0, 2, 1, 3))
        else:
            # (B, C, H, K, d) x (B, C, H, d, 1)
            logits = ops.matmul(
                ops.transpose(key, (0, 1, 3, 2, 4)), ops.expand_dims(query, 4)
            )
            logits = ops.squeeze(logits, 4)
        return ops.cast(logits, "float32")

    def _attend(
        self,
        logits: Any,
        behaviors: Any,
        mask: Any,
        return_scores: bool,
        one: bool,
    ) -> Any:
        """Return the sum of values under the softmax of `logits`.

        With `one`, the axis of the one candidate is left out.
        """
        if mask is not None:
            mask = ops.cast(mask, "bool")
            axes = (1, 2) if len(mask.shape) == 2 else (2,)
            mask = ops.expand_dims(mask, axes)
            logits = ops.where(
                mask, logits, ops.full_like(logits, _MASKED_LOGIT)
            )
        scores = ops.softmax(logits, axis=-1)
        if mask is not None:
            scores = scores * ops.cast(mask, "float32")
        value = self._project(behaviors, self.value_kernel, self.value_bias)
        weights = ops.cast(scores, value.dtype)
        if len(behaviors.shape) == 3:
            # (B, H, C, K) x (B, H, K, d)
            attended = ops.matmul(
                ops.transpose(weights, (0, 2, 1, 3)),
                ops.transpose(value, (0, 2, 1, 3)),
            )
            attended = ops.transpose(attended, (0, 2, 1, 3))
        else:
            # (B, C, H, 1, K) x (B, C, H, K, d)
            attended = ops.matmul(
                ops.expand_dims(weights, 3),
                ops.transpose(value, (0, 1, 3, 2, 4)),
            )
        output = ops.reshape(
            attended,
            (*ops.shape(attended)[:2], self.num_heads * attended.shape[-1]),
        )
        if one:
            output, scores = output[:, 0], scores[:, 0]
        return (output, scores) if return_scores else output


def _flat_heads(tensor: Any) -> Any:
    """Return (..., heads * size) of (..., heads, size)."""
    width = tensor.shape[-2] * tensor.shape[-1]
    return ops.reshape(tensor, (*ops.shape(tensor)[:-2], width))


def _copy(initializer: Any) -> Any:
    """Return an initializer of the same kind that draws other values."""
    if hasattr(initializer, "clone"):
        return initializer.clone()
    return initializer
