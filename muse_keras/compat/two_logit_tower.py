"""The published implementation's tower: two outputs, one logit."""

from collections.abc import Sequence
from typing import Any

import keras

from muse_keras._export import muse_keras_export
from muse_keras.models.score_tower import ScoreTower


@muse_keras_export()
class TwoLogitTower(ScoreTower):
    """Dense layers that end in two outputs, and the outputs' difference.

    Dice stands after every dense layer, the last one too, and normalizes over
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
        super().__init__(hidden_units, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = super().get_config()
        del config["num_logits"]
        return config

    def _make_layers(self) -> None:
        for units in self.hidden_units:
            self._add_normalized(units, self.dtype_policy)
        # Two outputs in float16 would be too coarse for the loss.
        self._add_normalized(2, "float32")

    def _add_normalized(self, units: int, dtype: Any) -> None:
        """Add a dense layer and its Dice, which looks at one row alone."""
        self._add(
            units,
            dtype,
            epsilon=1e-12,
            alpha_initializer=keras.initializers.Constant(-0.25),
            normalization="layer",
        )

    def _logits(self, values: Any) -> Any:
        """Return the logit of a click against no click."""
        return values[:, 1] - values[:, 0]
