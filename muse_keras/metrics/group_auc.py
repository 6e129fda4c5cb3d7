"""GAUC: the AUC of each user's impressions, averaged."""

from typing import Any

import keras
import numpy as np

from muse_keras._export import muse_keras_export
from muse_keras.metrics.per_group_auc import (
    PerGroupAUC,
    checked_impressions,
    per_group_auc,
)


@muse_keras_export()
class GroupAUC(keras.metrics.Metric):
    """Mean AUC of the groups, weighted by their impressions.

    Exact over all updates: a group may come in several of them. Ties count
    one half; groups with clicks only or non-clicks only are skipped.

    State: the impressions themselves (label, score, group and weight, 21
    bytes each), in NumPy arrays on the host. An exact AUC needs them all,
    group ids keep all 64 bits on every backend, and replicas merge by
    concatenation. The price: updates need concrete values. The metric works
    in an evaluation loop over `predict`, not in `compile(metrics=...)`, whose
    updates run inside a compiled function and know no group ids.

    Reference: GAUC in DIN, arXiv 1706.06978.

    Args:
        name: str.
        dtype: not used; the computation is in float64.

    Call arguments:
        y_true: (...), 0 or 1.
        y_pred: (...), any monotone score.
        group_ids: integer (...), any int64 values.
        sample_weight: (...), or None. 0 leaves an impression out.

    Example:
    >>> from muse_keras.metrics import GroupAUC
    >>> metric = GroupAUC()
    >>> metric.update_state([1, 0], [0.9, 0.1], [7, 7])
    >>> metric.update_state([1, 0], [0.3, 0.3], [8, 8])
    >>> metric.result()
    0.75
    """

    def __init__(self, name: str = "group_auc", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self._parts: list[tuple[np.ndarray, ...]] = []

    def update_state(
        self,
        y_true: Any,
        y_pred: Any,
        group_ids: Any = None,
        sample_weight: Any = None,
    ) -> None:
        """Add impressions; see the class.

        Raises:
            ValueError: if `group_ids` is missing, a value is symbolic (inside
                a compiled function), or `per_group_auc` refuses the arrays.
        """
        if group_ids is None:
            raise ValueError(
                "`group_ids` must be given. GroupAUC cannot be used in "
                "`compile(metrics=...)`, which does not pass it: update it "
                "with the result of `predict`."
            )
        arrays = checked_impressions(
            *(
                _to_numpy(name, value)
                for name, value in (
                    ("y_true", y_true),
                    ("y_pred", y_pred),
                    ("group_ids", group_ids),
                    ("sample_weight", sample_weight),
                )
            )
        )
        kept = arrays[3] > 0.0
        self._parts.append(tuple(array[kept] for array in arrays))

    def result(self) -> float:
        """Return GAUC as a float; NaN if no group has both classes."""
        return self.per_group().weighted_mean

    def per_group(self) -> PerGroupAUC:
        """Return the AUC of every group so far."""
        if not self._parts:
            return per_group_auc([], [], np.zeros(0, np.int64))
        return per_group_auc(
            *(
                np.concatenate(column)
                for column in zip(*self._parts, strict=True)
            )
        )

    def merge_state(self, metrics: Any) -> None:
        """Add the impressions of other `GroupAUC` metrics.

        Args:
            metrics: iterable of `GroupAUC`.
        """
        for metric in metrics:
            self._parts.extend(metric._parts)

    def reset_state(self) -> None:
        """Forget all impressions."""
        # A new list: Keras tracks (and wraps) what is assigned.
        self._parts.clear()

    def stateless_update_state(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: the state is not made of tensors."""
        raise NotImplementedError(
            "GroupAUC keeps its state on the host and cannot be updated in a "
            "compiled function: update it with the result of `predict`."
        )


def _to_numpy(name: str, value: Any) -> np.ndarray | None:
    """Return a value as an array; explain why a symbolic one cannot be."""
    if value is None or isinstance(
        value, np.ndarray | list | tuple | int | float
    ):
        return value if value is None else np.asarray(value)
    try:
        return np.asarray(keras.ops.convert_to_numpy(value))
    except Exception as error:
        raise ValueError(
            f"`{name}` must have a concrete value. GroupAUC cannot be "
            "updated inside a compiled function: update it with the result "
            f"of `predict`. Received: {type(value)}"
        ) from error
