"""The tower that scores the features of each candidate."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import integer, integers
from muse_keras.layers.dice import Dice


@muse_keras_export()
class ScoreTower(keras.layers.Layer):
    """Dense layers with Dice, then the logits of each candidate.

    Args:
        hidden_units: sequence of int, widths of the hidden layers.
        num_logits: int T, logits of a candidate: one for each label.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        inputs: float (B, C, F).
        mask: bool (B, C), True = real; padding is left out of the batch
            statistics.
        training: bool.

    Input shape:
        `(B, C, F)`

    Output shape:
        `(B, C)` float32; `(B, C, T)` of more logits than one
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (256, 128, 64),
        num_logits: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_units = integers("hidden_units", hidden_units)
        self.num_logits = integer("num_logits", num_logits)
        self.dense_layers: list[Any] = []
        self.activations: list[Any] = []
        self.output_layer: Any = None
        self._make_layers()
        # The mask is consumed here, not passed on.
        self.supports_masking = True

    def build(self, inputs_shape: Any, mask_shape: Any = None) -> None:
        """Build the layers."""
        shape = tuple(inputs_shape)
        for dense, activation in zip(
            self.dense_layers, self.activations, strict=True
        ):
            dense.build(shape)
            shape = (*shape[:-1], dense.units)
            activation.build(shape)
        if self.output_layer is not None:
            self.output_layer.build(shape)
        self.built = True

    def call(
        self, inputs: Any, mask: Any = None, training: bool | None = None
    ) -> Any:
        """Return logits; see the class."""
        shape = ops.shape(inputs)
        # Matrices (B C, F): products of rank 3 would be batches of products,
        # whose gradient holds a kernel for each request before the sum.
        values = ops.reshape(inputs, (-1, inputs.shape[-1]))
        if mask is not None:
            mask = ops.reshape(mask, (-1,))
        for dense, activation in zip(
            self.dense_layers, self.activations, strict=True
        ):
            values = activation(dense(values), mask=mask, training=training)
        return ops.reshape(self._logits(values), self._shape(shape))

    def compute_mask(self, *args: Any, **kwargs: Any) -> None:
        """Return None: the output has no masked positions."""
        return None

    def compute_output_spec(
        self, inputs: Any, mask: Any = None, training: bool | None = None
    ) -> Any:
        """Return the shape and dtype of `call`'s result."""
        return keras.KerasTensor(self._shape(tuple(inputs.shape)), "float32")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "hidden_units": self.hidden_units,
            "num_logits": self.num_logits,
        }

    def _shape(self, inputs_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the shape of the logits."""
        last = () if self.num_logits == 1 else (self.num_logits,)
        return (*inputs_shape[:-1], *last)

    def _make_layers(self) -> None:
        for units in self.hidden_units:
            self._add(units, self.dtype_policy)
        # A logit in float16 would be too coarse for the loss.
        self.output_layer = keras.layers.Dense(
            self.num_logits, dtype="float32", name="logit"
        )

    def _add(self, units: int, dtype: Any, **dice: Any) -> None:
        number = len(self.dense_layers) + 1
        self.dense_layers.append(
            keras.layers.Dense(units, dtype=dtype, name=f"dense_{number}")
        )
        self.activations.append(
            Dice(dtype=dtype, name=f"dice_{number}", **dice)
        )

    def _logits(self, values: Any) -> Any:
        """Return the logits of each row of the last Dice's output."""
        return self.output_layer(values)
