"""The interface of exact search units."""

from typing import Any, NamedTuple

import keras

from muse_keras.layers.gsu_top_k import GSUResult
from muse_keras.layers.sim_tier import SimTier


class WholeHistory(NamedTuple):
    """Every behaviour of each request, for units that look at all of them.

    Attributes:
        embeddings: float (B, L, E), trained id and category embeddings.
        mask: bool (B, L), True = real.
    """

    embeddings: Any
    mask: Any


class ExactSearchUnit(keras.layers.Layer):
    """Models each candidate against the behaviours that a search found.

    A subclass implements `call`, and sets in its constructor `tiers` (a
    `SimTier`) and `attention`: a target attention, by whose logits
    `TargetAttentionSearch` searches, or None. It says by attributes what it
    looks at, so that a ranker computes nothing in vain: `needs_found`,
    `needs_similarities` and `needs_behaviors` for what was found, its
    similarities and its embeddings; `needs_history` for the whole history.
    What it does not need may be None (or zeros, for similarities), unless
    weights are asked for, for an explanation.

    Call arguments:
        target: float (B, C, E), the candidates' embeddings.
        behaviors: float (B, C, K, E), the found behaviours' embeddings, or
            None.
        found: `GSUResult`, or None.
        history: `WholeHistory`, or None.

    Output shape:
        Tuple of features `(B, C, ...)` and float32 attention weights
        `(B, C, heads, K)`; weights are zero where nothing was found, and None
        without what they are of.
    """

    needs_found = True
    needs_similarities = True
    needs_behaviors = True
    needs_history = False
    attention: Any
    tiers: SimTier

    def call(
        self,
        target: Any,
        behaviors: Any,
        found: GSUResult | None,
        history: WholeHistory | None = None,
    ) -> tuple[Any, Any]:
        """Return features and attention weights."""
        raise NotImplementedError

    def count_tiers(self, found: GSUResult) -> Any:
        """Return raw counts of similarities per tier, float32 (B, C, N)."""
        return self.tiers.count(found.similarities, found.mask)
