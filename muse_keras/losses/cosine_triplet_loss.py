"""Triplet loss of hard negatives."""

from typing import Any

import keras
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import check_inputs, number
from muse_keras._ops.shapes import has_content


@muse_keras_export()
class CosineTripletLoss(keras.layers.Layer):
    """Hinge on cosine distances: the positive nearer than each negative.

    The mean of `max(0, margin + d(a, p) - d(a, n))` over a row's negatives,
    with `d = 1 - cosine`. For hard negatives: items of the same search that
    were clicked but not bought. A row without negatives costs nothing; a zero
    vector (no content) is left out like a masked one. A layer, like `InfoNCE`
    beside which it stands; it has no weights. Computed in float32.

    Reference: SCL in arXiv 2407.19467.

    Args:
        margin: float, > 0, by which the positive should be nearer.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        anchor: float (B, D), unit or zero vectors, as the others.
        positive: float (B, D).
        negatives: float (B, H, D).
        mask: bool (B, H), True = a negative; None: all are.

    Output shape:
        `(B,)` float32

    Example:
    >>> import numpy as np
    >>> from muse_keras.losses import CosineTripletLoss
    >>> loss = CosineTripletLoss(margin=0.25)
    >>> anchor = np.array([[1.0, 0.0]], "float32")
    >>> negatives = np.array([[[1.0, 0.0], [0.0, 1.0]]], "float32")
    >>> float(loss(anchor, anchor, negatives)[0])
    0.125
    """

    def __init__(self, margin: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.autocast = False
        self.margin = number("margin", margin, "(0, inf)")

    def build(self, *shapes: Any, **named_shapes: Any) -> None:
        """Make nothing: there are no weights."""
        self.built = True

    def call(
        self, anchor: Any, positive: Any, negatives: Any, mask: Any = None
    ) -> Any:
        """Return the loss of every row; see the class."""
        _check(anchor, positive, negatives, mask)
        anchor, positive, negatives = (
            ops.cast(vectors, "float32")
            for vectors in (anchor, positive, negatives)
        )
        near = ops.expand_dims(ops.sum(anchor * positive, axis=-1), 1)
        far = ops.squeeze(
            ops.matmul(negatives, ops.expand_dims(anchor, -1)), -1
        )
        losses = ops.relu(self.margin - near + far)
        rows = ops.logical_and(has_content(anchor), has_content(positive))
        counted = ops.logical_and(
            has_content(negatives), ops.expand_dims(rows, 1)
        )
        if mask is not None:
            counted = ops.logical_and(counted, ops.cast(mask, "bool"))
        weights = ops.cast(counted, "float32")
        number = ops.maximum(ops.sum(weights, axis=1), 1.0)
        return ops.sum(losses * weights, axis=1) / number

    def compute_output_spec(
        self, anchor: Any, positive: Any, negatives: Any, mask: Any = None
    ) -> Any:
        """Return the shape and dtype of `call`'s result."""
        _check(anchor, positive, negatives, mask)
        return keras.KerasTensor((anchor.shape[0],), "float32")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "margin": self.margin}


def _check(anchor: Any, positive: Any, negatives: Any, mask: Any) -> None:
    check_inputs(
        anchor=(anchor, "BD", "floats"),
        positive=(positive, "BD", "floats"),
        negatives=(negatives, "BHD", "floats"),
        mask=(mask, "BH"),
    )
