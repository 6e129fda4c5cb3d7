"""Log loss of impressions, padding left out."""

from typing import Any

import keras
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import check_inputs
from muse_keras._ops.shapes import weights_of


@muse_keras_export()
class ImpressionCrossentropy(keras.losses.Loss):
    """Binary cross entropy of each impression in a batch of requests.

    `keras.losses.BinaryCrossentropy` takes the last axis, here that of the
    candidates, for the classes of one example and averages over it before
    any weight applies. This loss keeps one value for each candidate, so that
    `sample_weight` (B, C) works; weights (B,) are those of requests, and hold
    for all their candidates. Labels below 0 mark padding and cost nothing.

    `class_weight` of `fit` has no meaning here: Keras takes a row of labels
    for one class. Give `sample_weight=np.where(clicks == 1, 5.0, 1.0)`; the
    rankers of `muse_keras.models` refuse it.

    Args:
        reduction: str, see `keras.losses.Loss`. The default divides by the
            number of requests times candidates (times labels), padding
            included;
            "mean_with_sample_weight" divides by the sum of weights.
        name: str.
        **kwargs: see `keras.losses.Loss`.

    Several labels of each impression are a last axis, (B, C, T). Each costs
    its own cross entropy; weights (B, C) hold for all labels of an
    impression, and weights (B, C, T) give labels weights of their own.

    Call arguments:
        y_true: (B, C) or (B, C, T), 1 = clicked, 0 = not clicked, negative =
            padding.
        y_pred: float, logits of the same shape.
        sample_weight: float (B, C, T), (B, C), (B, 1) or (B,), or None.

    Example:
    >>> import numpy as np
    >>> from muse_keras.losses import ImpressionCrossentropy
    >>> loss = ImpressionCrossentropy(reduction="sum")
    >>> round(float(loss(np.array([[1, -1]]), np.array([[0.0, 9.0]]))), 4)
    0.6931
    """

    def __init__(
        self,
        reduction: str = "sum_over_batch_size",
        name: str = "impression_crossentropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, reduction=reduction, **kwargs)

    def __call__(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> Any:
        """Return the reduced loss; see the class."""
        y_pred = ops.convert_to_tensor(y_pred)
        if sample_weight is not None:
            # One weight for each loss, since a reduction may sum the weights.
            sample_weight = weights_of(y_pred, sample_weight)
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of every label of every impression."""
        logits = ops.convert_to_tensor(y_pred)
        check_inputs(y_pred=(logits, "BC BCT"))
        axes = "BCT"[: len(logits.shape)]
        check_inputs(y_pred=(logits, axes), y_true=(y_true, axes))
        labels = ops.cast(y_true, logits.dtype)
        real = ops.cast(labels >= 0.0, logits.dtype)
        # log(1 + exp(-|x|)) + max(x, 0) - x y: never overflows.
        losses = (
            ops.maximum(logits, 0.0)
            - logits * labels
            + ops.log1p(ops.exp(-ops.abs(logits)))
        )
        return losses * real
