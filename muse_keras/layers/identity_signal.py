"""What similarity does not tell: whether a behavior is the item itself."""

from typing import Any

import keras
import numpy as np
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import check_inputs, integer, same_axes
from muse_keras._ops.docstrings import attributes_of

# Between codes that are equal and those that differ in one unit of 127.
_EQUAL = 1.0 - 1e-5


@muse_keras_export()
class IdentitySignal(keras.layers.Layer):
    """How often and how lately the candidate itself is among the behaviors.

    SimTier counts a behavior that is the very item, one of an equal vector and
    one that is only similar in the same tier. Users who come back to an item
    need them apart. The features of a candidate are, in this order:

    - `log(1 + n)` of the behaviors with the candidate's row, and of those
      whose vector is equal (a similarity above 1 - 1e-5);
    - `1 / (1 + log(1 + a))` of each, where `a` is how many behaviors are newer
      than the newest of them; 0 without any;
    - `log(1 + n)` of the similarities in each of `fine_tiers` tiers near 1,
      each half as wide as the one before: `[1 - w, 1 - w / 2)` with `w` of
      1/16, 1/32, ..., and the last includes 1.

    Args:
        fine_tiers: int, number of tiers near 1.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        similarities: float (..., K).
        same_item: bool (..., K), True = the behavior has the candidate's row.
        ages: float (..., K), how many behaviors are newer.
        mask: bool (..., K), True = found. None: all are.

    Input shape:
        three tensors of `(..., K)`

    Output shape:
        `(..., 4 + fine_tiers)`, the layer's compute dtype.

    Example:
    >>> import numpy as np
    >>> from muse_keras.layers import IdentitySignal
    >>> signal = IdentitySignal(fine_tiers=1)(
    ...     np.array([[1.0, 1.0, 0.2]], "float32"),
    ...     np.array([[True, False, False]]),
    ...     np.array([[4.0, 0.0, 2.0]], "float32"),
    ... )
    >>> np.asarray(signal).round(2)
    array([[0.69, 1.1 , 0.38, 1.  , 1.1 ]], dtype=float32)
    """

    def __init__(self, fine_tiers: int = 6, **kwargs: Any) -> None:
        # An autocast to float16 would move similarities across edges.
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self.fine_tiers = integer("fine_tiers", fine_tiers, minimum=0)
        self.supports_masking = True

    @property
    def width(self) -> int:
        """The number of features."""
        return 4 + self.fine_tiers

    def build(self, *shapes: Any) -> None:
        """Make no weights: the layer has none."""
        self.built = True

    def call(
        self, similarities: Any, same_item: Any, ages: Any, mask: Any = None
    ) -> Any:
        """Return the features; see the class."""
        _check(similarities, same_item, ages, mask)
        similarities = ops.cast(similarities, "float32")
        same_item = ops.cast(same_item, "bool")
        ages = ops.cast(ages, "float32")
        equal = similarities > _EQUAL
        if mask is not None:
            mask = ops.cast(mask, "bool")
            same_item = ops.logical_and(same_item, mask)
            equal = ops.logical_and(equal, mask)
            similarities = ops.where(
                mask, similarities, ops.full_like(similarities, -2.0)
            )
        recency = 1.0 / (1.0 + ops.log1p(ages))
        kinds = ops.stack([same_item, equal], axis=-2)
        counts = ops.log1p(ops.sum(ops.cast(kinds, "float32"), axis=-1))
        newest = ops.cast(kinds, "float32") * ops.expand_dims(recency, -2)
        # There may be none at all.
        padding = [[0, 0]] * (len(newest.shape) - 1) + [[0, 1]]
        newest = ops.max(ops.pad(newest, padding), axis=-1)
        features = [counts, newest]
        if self.fine_tiers:
            features.append(ops.log1p(self._count(similarities)))
        joined = ops.concatenate(features, axis=-1)
        return ops.cast(joined, self.compute_dtype)

    def compute_mask(self, *args: Any, **kwargs: Any) -> None:
        """Return None: the output has no masked positions."""
        return None

    def compute_output_spec(
        self, similarities: Any, same_item: Any, ages: Any, mask: Any = None
    ) -> Any:
        """Return the shape and dtype of `call`'s result."""
        _check(similarities, same_item, ages, mask)
        shape = (*tuple(similarities.shape)[:-1], self.width)
        return keras.KerasTensor(shape, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), **attributes_of(self)}

    def _count(self, similarities: Any) -> Any:
        """Return counts in the tiers near 1, float32 (..., fine_tiers)."""
        edges = 1.0 - 2.0 ** -np.arange(4.0, 4.0 + self.fine_tiers)
        edges = ops.convert_to_tensor(edges, dtype="float32")
        above = ops.cast(
            ops.expand_dims(similarities, -2) >= ops.expand_dims(edges, -1),
            "float32",
        )
        at_least = ops.sum(above, axis=-1)
        higher = ops.concatenate(
            [at_least[..., 1:], ops.zeros_like(at_least[..., :1])], axis=-1
        )
        return at_least - higher


def _check(similarities: Any, same_item: Any, ages: Any, mask: Any) -> None:
    """Raise `ValueError` for tensors that do not fit."""
    axes = same_axes(similarities) or "K"
    check_inputs(
        similarities=(similarities, axes, "floats"),
        same_item=(same_item, axes),
        ages=(ages, axes, "floats"),
        mask=(mask, axes),
    )
