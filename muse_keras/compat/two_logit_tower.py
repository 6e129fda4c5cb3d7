"""The published implementation's tower: two outputs, one logit."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras.layers.dice import Dice


@muse_keras_export()
class TwoLogitTower(keras.layers.Layer):
    """Dense layers that end in two outputs, and the outputs' difference.

    Dice stands after every dense layer, the last one too, and normalises over
    the units of each candidate. A softmax of the two outputs (no click,
    click) gives the click the sigmoid of their difference, which is returned.

    Reference: the implementation published with MUSE, arXiv 2512.07216.

    Args:
        hidden_units: sequence of int, widths of the hidden layers.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        inputs: float (B, C, F).
        mask: bool (B, C); not needed, for no statistics are kept.
        training: bool; both are the same.

    Input shape:
        `(B, C, F)`

    Output shape:
        `(B, C)` float32

    Example:
    >>> import numpy as np
    >>> from muse_keras.compat import TwoLogitTower
    >>> tower = TwoLogitTower(hidden_units=(8, 4))
    >>> tuple(tower(np.ones((2, 3, 5), "float32")).shape)
    (2, 3)
    """

    def __init__(
        self, hidden_units: Sequence[int] = (256, 128, 64), **kwargs: Any
    ) -> None:
        """Set the arguments; see the class."""
        super().__init__(**kwargs)
        self.hidden_units = tuple(hidden_units)
        self.dense_layers = []
        self.activations = []
        for number, units in enumerate((*self.hidden_units, 2), 1):
            last = number > len(self.hidden_units)
            # Two outputs in float16 would be too coarse for the loss.
            dtype = "float32" if last else self.dtype_policy
            self.dense_layers.append(
                keras.layers.Dense(units, dtype=dtype, name=f"dense_{number}")
            )
            self.activations.append(
                Dice(
                    epsilon=1e-12,
                    alpha_initializer=keras.initializers.Constant(-0.25),
                    normalization="layer",
                    dtype=dtype,
                    name=f"dice_{number}",
                )
            )
        # The mask is used up here.
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
        self.built = True

    def call(
        self, inputs: Any, mask: Any = None, training: bool | None = None
    ) -> Any:
        """Return logits; see the class."""
        shape = ops.shape(inputs)
        values = ops.reshape(inputs, (-1, inputs.shape[-1]))
        for dense, activation in zip(
            self.dense_layers, self.activations, strict=True
        ):
            values = activation(dense(values))
        return ops.reshape(values[:, 1] - values[:, 0], shape[:-1])

    def compute_mask(self, *args: Any, **kwargs: Any) -> None:
        """Return None: the output has no masked positions."""
        return None

    def compute_output_spec(
        self, inputs: Any, mask: Any = None, training: bool | None = None
    ) -> Any:
        """Return the shape and dtype of `call`'s result."""
        return keras.KerasTensor(tuple(inputs.shape)[:-1], "float32")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = super().get_config()
        config["hidden_units"] = self.hidden_units
        return config
