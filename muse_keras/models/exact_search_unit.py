"""The interface of exact search units."""

from typing import Any

import keras

from muse_keras._keras_internals import allow_objects
from muse_keras.layers.sim_tier import SimTier
from muse_keras.models.views import BehaviorView, FoundBehaviors


class ExactSearchUnit(keras.layers.Layer):
    """Models each candidate against the behaviors that a search found.

    A subclass implements `call` and `compute_output_shape`, and sets in its
    constructor `tiers` (a `SimTier`) and `attention`: a target attention, by
    whose logits `TargetAttentionSearch` searches, or None. It reads the
    fields of `found` and `history` that it models; what it does not read is
    not computed, and a search that it does not look at is not run.

    Call arguments:
        target: float (B, C, E), the candidates' embeddings.
        found: `FoundBehaviors`.
        history: `BehaviorView`, the whole history; None for a unit that does
            not look at it.
        return_attention_scores: bool, also return the weights.

    Output shape:
        Features `(B, C, F)`; with `return_attention_scores` also float32
        attention weights `(B, C, heads, K)`, zero where nothing was found.
    """

    attention: Any
    tiers: SimTier

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        allow_objects(self)

    def call(
        self,
        target: Any,
        found: FoundBehaviors,
        history: BehaviorView | None = None,
        return_attention_scores: bool = False,
    ) -> Any:
        """Return features, and attention weights if asked for."""
        raise NotImplementedError

    def compute_output_shape(self, target_shape: Any) -> tuple[Any, ...]:
        """Return the shape of the features."""
        raise NotImplementedError

    def count_tiers(self, found: FoundBehaviors) -> Any:
        """Return raw counts of similarities per tier, float32 (B, C, N)."""
        return self.tiers.count(found.similarities, found.mask)
