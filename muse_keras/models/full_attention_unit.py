"""Target attention over the whole history."""

from typing import Any

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import integer
from muse_keras._ops.positions import take_scores_at
from muse_keras.layers.sim_tier import SimTier
from muse_keras.layers.target_attention import TargetAttention
from muse_keras.models.exact_search_unit import ExactSearchUnit
from muse_keras.models.views import BehaviorView, FoundBehaviors


@muse_keras_export()
class FullAttentionUnit(ExactSearchUnit):
    """Target attention over every behavior: what a search approximates.

    No search is needed, and what one found is not modeled. The weights of
    found behaviors are their own among those of the whole history; they do
    not sum to 1.

    Keys and values are computed once per request, O(L E E'); a candidate then
    takes O(L E), and 4 bytes of each head for each behavior.

    Reference: DIN, arXiv 1706.06978, with the whole history.

    Args:
        num_heads: int, attention heads.
        activation: activation of the attention's projections.
        num_tiers: int, tiers of `count_tiers`.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        See `ExactSearchUnit`. `history` is required, `found` only with
        `return_attention_scores`.

    Output shape:
        Features `(B, C, E)`; with `return_attention_scores` also float32
        weights `(B, C, heads, K)`.

    Example:
    >>> from muse_keras.models import MUSE
    >>> type(MUSE(9, {}, {}, esu="full_ta").exact_search_unit).__name__
    'FullAttentionUnit'
    """

    def __init__(
        self,
        num_heads: int = 1,
        activation: Any = "silu",
        num_tiers: int = 20,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = integer("num_heads", num_heads)
        self.attention = TargetAttention(
            num_heads=num_heads,
            activation=activation,
            dtype=self.dtype_policy,
            name="attention",
        )
        self.tiers = SimTier(num_tiers, learnable=False, name="sim_tier")

    def build(self, target_shape: Any) -> None:
        """Build the attention."""
        self.attention.build(target_shape, target_shape)
        self.tiers.build()
        self.built = True

    def call(
        self,
        target: Any,
        found: FoundBehaviors | None = None,
        history: BehaviorView | None = None,
        return_attention_scores: bool = False,
    ) -> Any:
        """Return features, and weights of found behaviors if asked for."""
        if history is None:
            raise ValueError("`history` must be given. Received: None")
        if not return_attention_scores:
            return self.attention(target, history.embeddings, mask=history.mask)
        if found is None:
            raise ValueError(
                "`found` must be given with `return_attention_scores`. "
                "Received: None"
            )
        attended, scores = self.attention(
            target,
            history.embeddings,
            mask=history.mask,
            return_attention_scores=True,
        )
        return attended, take_scores_at(scores, found.indices, found.mask)

    def compute_output_shape(self, target_shape: Any) -> tuple[Any, ...]:
        """Return the shape of the features."""
        return tuple(target_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "activation": self.attention.get_config()["activation"],
            "num_tiers": self.tiers.num_tiers,
        }
