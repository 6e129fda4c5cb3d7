"""Dice: an activation that adapts to the distribution of its input."""

from typing import Any

import keras
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import check_inputs, number, same_axes
from muse_keras._ops.replicas import add_state, sum_over_replicas

_NORMALIZATIONS = ("batch", "layer")


@muse_keras_export()
class Dice(keras.layers.Layer):
    """Data adaptive activation: a PReLU that turns where the data is.

    `p x + (1 - p) alpha x` with `p = sigmoid((x - mean) / sqrt(var + eps))`
    and a learned `alpha` per channel. In training, mean and variance are
    those of the unmasked positions of the whole batch, summed over all
    replicas of a `tf.distribute` strategy, so that two replicas train like
    one. At inference they are moving averages, so that one example's output
    does not depend on the others. The averages carry no trace of an initial
    value: the first batch sets them. With `normalization="layer"` mean and
    variance are those of the channels at each position, in training and at
    inference, and there are no averages.

    Reference: DIN, arXiv 1706.06978.

    Args:
        momentum: float in [0, 1), of the moving averages.
        epsilon: float, added to the variance.
        alpha_initializer: initializer of `alpha`.
        normalization: "batch" or "layer", what mean and variance are of.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        inputs: float (..., E).
        mask: bool (...), True = counts in the statistics. None: all count.
            The output of masked positions is computed all the same.
        training: bool, use and update batch statistics.

    Input shape:
        `(..., E)`

    Output shape:
        `(..., E)`

    Example:
    >>> import numpy as np
    >>> from keras import ops
    >>> from muse_keras.layers import Dice
    >>> output = Dice()(np.array([[0.0, 40.0]], "float32"))
    >>> ops.convert_to_numpy(output)
    array([[ 0., 40.]], dtype=float32)
    """

    def __init__(
        self,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        alpha_initializer: Any = "zeros",
        normalization: str = "batch",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if normalization not in _NORMALIZATIONS:
            raise ValueError(
                f"`normalization` must be one of {_NORMALIZATIONS}. "
                f"Received: normalization={normalization!r}"
            )
        self.momentum = number("momentum", momentum, "[0, 1)")
        self.epsilon = number("epsilon", epsilon, "(0, inf)")
        self.alpha_initializer = keras.initializers.get(alpha_initializer)
        self.normalization = normalization
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Make `alpha` and the moving averages."""
        dim = input_shape[-1]
        self.alpha = self.add_weight(
            shape=(dim,), initializer=self.alpha_initializer, name="alpha"
        )
        if self.normalization == "batch":
            self.moving_mean = add_state(self, "moving_mean", (dim,))
            self.moving_variance = add_state(
                self, "moving_variance", (dim,), initializer="ones"
            )
            self.steps = add_state(self, "steps")
        self.built = True

    def call(
        self, inputs: Any, mask: Any = None, training: bool | None = None
    ) -> Any:
        """Activate; see the class."""
        _check(inputs, mask)
        if self.normalization == "layer":
            mean, variance = ops.moments(
                ops.cast(inputs, "float32"), axes=-1, keepdims=True
            )
        elif training and self.trainable:
            mean, variance = self._batch_statistics(inputs, mask)
        else:
            mean = ops.cast(self.moving_mean, "float32")
            variance = ops.cast(self.moving_variance, "float32")
        centered = ops.cast(inputs, "float32") - mean
        gate = ops.sigmoid(centered * ops.rsqrt(variance + self.epsilon))
        gate = ops.cast(gate, inputs.dtype)
        alpha = ops.cast(self.alpha, inputs.dtype)
        return inputs * (gate + (1.0 - gate) * alpha)

    def compute_output_spec(
        self, inputs: Any, mask: Any = None, training: bool | None = None
    ) -> Any:
        """Return the shape and dtype of `call`'s result."""
        _check(inputs, mask)
        return keras.KerasTensor(inputs.shape, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "alpha_initializer": keras.initializers.serialize(
                self.alpha_initializer
            ),
            "normalization": self.normalization,
        }

    def _batch_statistics(self, inputs: Any, mask: Any) -> tuple[Any, Any]:
        """Return mean and variance of the batch, and update the averages."""
        values = ops.cast(inputs, "float32")
        # Sums around a value near the mean lose fewer digits.
        shift = ops.stop_gradient(ops.cast(self.moving_mean, "float32"))
        values = values - shift
        axes = tuple(range(len(inputs.shape) - 1))
        if mask is None:
            weights = ops.ones_like(values[..., :1])
        else:
            weights = ops.expand_dims(ops.cast(mask, "float32"), -1)
        weighted = values * weights
        sums = ops.concatenate(
            [
                ops.sum(weights, axis=axes),
                ops.sum(weighted, axis=axes),
                ops.sum(weighted * values, axis=axes),
            ],
            axis=0,
        )
        sums = sum_over_replicas(sums)
        dim = inputs.shape[-1]
        count = sums[0]
        safe = ops.maximum(count, 1.0)
        offset = sums[1 : dim + 1] / safe
        variance = ops.maximum(sums[dim + 1 :] / safe - offset * offset, 0.0)
        mean = offset + shift
        self._update_averages(count, mean, variance)
        return mean, variance

    def _update_averages(self, count: Any, mean: Any, variance: Any) -> None:
        """Move the averages; a batch without any real position does not."""
        seen = ops.cast(count > 0.0, "float32")
        steps = self.steps + seen
        # An exponential average, corrected for its initial value.
        decay = ops.power(self.momentum, ops.maximum(steps, 1.0))
        rate = seen * (1.0 - self.momentum) / (1.0 - decay)
        for average, value in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            value = ops.stop_gradient(value)
            average.assign(average + rate * (value - average))
        self.steps.assign(steps)


def _check(inputs: Any, mask: Any) -> None:
    axes = same_axes(inputs)
    check_inputs(inputs=(inputs, axes, "floats"), mask=(mask, axes[:-1]))
