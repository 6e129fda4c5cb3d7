"""SimTier: a histogram of similarities."""

from typing import Any

import keras
import numpy as np
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import check_inputs, integer, same_axes
from muse_keras._ops.docstrings import attributes_of

_SCALES = ("log1p", "count", "fraction")
_EDGES = ("floor", "ceil")


@muse_keras_export()
class SimTier(keras.layers.Layer):
    """Counts of similarities in equal tiers of [-1, 1].

    Turns the similarities of a candidate with its retrieved behaviors into
    features that a ranker can learn from: tier `n` of `N` counts those in
    `[-1 + 2n/N, -1 + 2(n + 1)/N)`, and the last tier includes 1. The edges
    are the float32 numbers nearest to these, compared in float32 under every
    dtype policy. A value outside [-1, 1] (rounding makes such) counts in the
    first or last tier. Masked values and NaN count nowhere.

    With `edges="ceil"` tier `n` counts the similarities `r` whose
    `ceil(M r) + M`, with `M = (N - 2) / 2`, is `n`: upper edges are included,
    the first tier holds -1 alone and the last what rounding made larger
    than 1.

    Reference: SimTier, arXiv 2407.19467; MUSE, arXiv 2512.07216.

    Args:
        num_tiers: int, number of tiers N.
        scale: "log1p" for `log(1 + count)`, "count" for the count itself,
            "fraction" for the count over the number of counted values (0 if
            there are none).
        learnable: bool, multiply each tier by a trained weight that starts
            at 1.
        edges: "floor" for tiers with their lower edges, "ceil" for tiers with
            their upper edges.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        similarities: float (..., K).
        mask: bool (..., K), True = counted. None: all are.

    Input shape:
        `(..., K)`

    Output shape:
        `(..., num_tiers)`, the layer's compute dtype.

    Example:
    >>> import numpy as np
    >>> from muse_keras.layers import SimTier
    >>> tiers = SimTier(num_tiers=4, scale="count", learnable=False)
    >>> np.asarray(tiers(np.array([[-1.0, 0.1, 0.2, 1.0]], "float32")))
    array([[1., 0., 2., 1.]], dtype=float32)
    """

    def __init__(
        self,
        num_tiers: int = 20,
        scale: str = "log1p",
        learnable: bool = True,
        edges: str = "floor",
        **kwargs: Any,
    ) -> None:
        # An autocast to float16 would move similarities across edges.
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        num_tiers = integer("num_tiers", num_tiers)
        if scale not in _SCALES:
            raise ValueError(
                f"`scale` must be one of {_SCALES}. Received: scale={scale!r}"
            )
        if edges not in _EDGES:
            raise ValueError(
                f"`edges` must be one of {_EDGES}. Received: edges={edges!r}"
            )
        if edges == "ceil" and (num_tiers < 4 or num_tiers % 2):
            raise ValueError(
                '`edges="ceil"` needs an even `num_tiers` of at least 4. '
                f"Received: num_tiers={num_tiers}"
            )
        self.num_tiers = num_tiers
        self.scale = scale
        self.learnable = learnable
        self.edges = edges
        # The mask is consumed here, not passed on.
        self.supports_masking = True
        self.tier_weights: Any = None

    def build(
        self, similarities_shape: Any = None, mask_shape: Any = None
    ) -> None:
        """Make the weight of each tier."""
        if self.learnable:
            self.tier_weights = self.add_weight(
                shape=(self.num_tiers,),
                initializer="ones",
                autocast=False,
                name="tier_weights",
            )
        self.built = True

    def count(self, similarities: Any, mask: Any = None) -> Any:
        """Return how many similarities fall in each tier.

        Args:
            similarities: float (..., K).
            mask: bool (..., K), True = counted, or None.

        Returns:
            float32 (..., num_tiers).
        """
        similarities = ops.convert_to_tensor(similarities)
        _check(similarities, mask)
        similarities = ops.cast(similarities, "float32")
        if self.edges == "ceil":
            return self._count_by_upper_edges(similarities, mask)
        is_counted = ops.logical_not(ops.isnan(similarities))
        if mask is not None:
            mask = ops.cast(ops.convert_to_tensor(mask), "bool")
            is_counted = ops.logical_and(is_counted, mask)
            # Below every inner edge, as a NaN is: counted in no tier.
            similarities = ops.where(
                mask, similarities, ops.full_like(similarities, -2.0)
            )
        total = ops.sum(ops.cast(is_counted, "float32"), axis=-1, keepdims=True)
        if self.num_tiers == 1:
            return total
        # How many are at or above each inner edge; neighbors' difference is
        # a tier. Exact, where arithmetic on the values would round.
        edges = ops.convert_to_tensor(self._inner_edges(), dtype="float32")
        above = ops.cast(
            ops.expand_dims(similarities, -2) >= ops.expand_dims(edges, -1),
            "float32",
        )
        above = ops.sum(above, axis=-1)
        at_least = ops.concatenate([total, above], axis=-1)
        higher = ops.concatenate([above, ops.zeros_like(total)], axis=-1)
        return at_least - higher

    def call(self, similarities: Any, mask: Any = None) -> Any:
        """Return the scaled tiers; see the class."""
        tiers = self.count(similarities, mask)
        if self.scale == "log1p":
            tiers = ops.log1p(tiers)
        elif self.scale == "fraction":
            total = ops.sum(tiers, axis=-1, keepdims=True)
            tiers = tiers / ops.maximum(total, 1.0)
        if self.tier_weights is not None:
            tiers = tiers * ops.cast(self.tier_weights, "float32")
        return ops.cast(tiers, self.compute_dtype)

    def compute_mask(self, *args: Any, **kwargs: Any) -> None:
        """Return None: the output has no masked positions."""
        return None

    def compute_output_spec(self, similarities: Any, mask: Any = None) -> Any:
        """Return the shape and dtype of `call`'s result."""
        _check(similarities, mask)
        shape = (*tuple(similarities.shape)[:-1], self.num_tiers)
        return keras.KerasTensor(shape, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), **attributes_of(self)}

    def _count_by_upper_edges(self, similarities: Any, mask: Any) -> Any:
        """Return `count` of tiers that include their upper edges."""
        half = (self.num_tiers - 2) // 2
        tiers = ops.clip(
            ops.ceil(similarities * float(half)) + float(half),
            0.0,
            self.num_tiers - 1.0,
        )
        numbers = ops.arange(self.num_tiers, dtype="float32")
        counted = ops.cast(
            ops.expand_dims(tiers, -2) == ops.expand_dims(numbers, -1),
            "float32",
        )
        if mask is not None:
            mask = ops.cast(ops.convert_to_tensor(mask), "float32")
            counted = counted * ops.expand_dims(mask, -2)
        return ops.sum(counted, axis=-1)

    def _inner_edges(self) -> np.ndarray:
        """Return the edges between tiers, float32 (num_tiers - 1,)."""
        tier = np.arange(1, self.num_tiers, dtype=np.float64)
        return ((2.0 * tier - self.num_tiers) / self.num_tiers).astype(
            "float32"
        )


def _check(similarities: Any, mask: Any) -> None:
    """Raise `ValueError` for a mask that does not fit, or no similarities."""
    axes = same_axes(similarities)
    check_inputs(
        similarities=(similarities, axes or "K", "floats"), mask=(mask, axes)
    )
