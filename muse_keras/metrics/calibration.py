"""Calibration: predicted over observed clicks."""

from typing import Any

import keras
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import check_inputs, same_axes
from muse_keras._ops.shapes import weights_of


@muse_keras_export()
class Calibration(keras.metrics.Metric):
    """Predicted over observed clicks: 1 is right, 2 is twice too many.

    The sums of predictions and of labels are kept, never their quotient, so
    that replicas of a distribution strategy add up. Works in
    `compile(weighted_metrics=...)` and outside. Sums are float64 where the
    backend has it; under JAX they are float32 with a compensation for
    rounding.

    Args:
        from_logits: bool, predictions are logits.
        name: str.
        dtype: dtype of the result.

    Call arguments:
        y_true: (...), 1 = clicked; negative = padding, not counted.
        y_pred: (...), probabilities, or logits.
        sample_weight: (...), or as many of its first axes as it has, such
            as (B,) for all candidates of a request; or None.

    Example:
    >>> from muse_keras.metrics import Calibration
    >>> metric = Calibration()
    >>> metric.update_state([1.0, 0.0, 0.0, 0.0], [0.2, 0.1, 0.1, 0.1])
    >>> float(metric.result())
    0.5
    """

    def __init__(
        self,
        from_logits: bool = False,
        name: str = "calibration",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.from_logits = from_logits
        self._sum_dtype = (
            "float32" if keras.backend.backend() == "jax" else "float64"
        )
        self.predicted = self._add_sum("predicted")
        self.observed = self._add_sum("observed")
        self.impressions = self._add_sum("impressions")

    def update_state(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> None:
        """Add impressions; see the class."""
        labels = ops.cast(ops.convert_to_tensor(y_true), self._sum_dtype)
        predictions = ops.cast(ops.convert_to_tensor(y_pred), self._sum_dtype)
        axes = same_axes(labels)
        check_inputs(y_true=(labels, axes), y_pred=(predictions, axes))
        if self.from_logits:
            predictions = ops.sigmoid(predictions)
        weights = ops.cast(labels >= 0.0, self._sum_dtype)
        if sample_weight is not None:
            weights = weights * weights_of(predictions, sample_weight)
        for total, values in (
            (self.predicted, predictions * weights),
            (self.observed, labels * weights),
            (self.impressions, weights),
        ):
            _add(total, ops.sum(values))

    def result(self) -> Any:
        """Return predicted over observed; 0 if nothing was observed."""
        predicted = self.predicted[0] + self.predicted[1]
        observed = self.observed[0] + self.observed[1]
        return ops.cast(ops.divide_no_nan(predicted, observed), self.dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "from_logits": self.from_logits}

    def _add_sum(self, name: str) -> Any:
        """Add a running sum: the sum itself and what rounding left over."""
        return self.add_variable(
            shape=(2,), initializer="zeros", dtype=self._sum_dtype, name=name
        )


def _add(total: Any, value: Any) -> None:
    """Add to a running sum and keep the rounding error beside it."""
    high, low = total[0], total[1]
    added = high + value
    kept = added - high
    lost = (high - (added - kept)) + (value - kept)
    total.assign(ops.stack([added, low + lost]))
