"""A linear map plus a small network."""

from collections.abc import Sequence
from typing import Any

import keras

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import integer, integers, number
from muse_keras._ops.docstrings import attributes_of


@muse_keras_export()
class ResidualMLP(keras.layers.Layer):
    """`x W + MLP(x)`: at its start close to a projection of the input.

    A random projection keeps cosines roughly as they are, so that training
    starts from the geometry of the input.

    Args:
        hidden_units: sequence of int, widths of the hidden layers; none: the
            linear map alone.
        output_dim: int.
        dropout: float in [0, 1), after each hidden layer.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        inputs: float (B, W).
        training: bool.

    Output shape:
        `(B, output_dim)`
    """

    def __init__(
        self,
        hidden_units: Sequence[int],
        output_dim: int,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_units = integers("hidden_units", hidden_units)
        self.output_dim = output_dim = integer("output_dim", output_dim)
        self.dropout = dropout = number("dropout", dropout, "[0, 1)")
        policy = self.dtype_policy
        self.linear = keras.layers.Dense(
            output_dim, use_bias=False, dtype=policy, name="linear"
        )
        self.hidden: list[Any] = []
        for place, units in enumerate(self.hidden_units, 1):
            self.hidden.append(
                keras.layers.Dense(
                    units, "gelu", dtype=policy, name=f"hidden_{place}"
                )
            )
            if dropout > 0.0:
                self.hidden.append(
                    keras.layers.Dropout(
                        dropout, dtype=policy, name=f"dropout_{place}"
                    )
                )
        if self.hidden:
            self.hidden.append(
                keras.layers.Dense(output_dim, dtype=policy, name="output")
            )

    def build(self, input_shape: Any) -> None:
        """Build the layers."""
        shape = tuple(input_shape)
        self.linear.build(shape)
        for layer in self.hidden:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the sum of both parts; see the class."""
        result = self.linear(inputs)
        if not self.hidden:
            return result
        values = inputs
        for layer in self.hidden:
            if isinstance(layer, keras.layers.Dropout):
                values = layer(values, training=training)
            else:
                values = layer(values)
        return result + values

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of `call`'s result."""
        return (*tuple(input_shape)[:-1], self.output_dim)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), **attributes_of(self)}
