"""SDIM: interest sampled from the whole history by hash collisions."""

from typing import Any

from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import integer, seed_of
from muse_keras._ops.hyperplanes import add_planes, signs
from muse_keras.layers.sim_tier import SimTier
from muse_keras.models.exact_search_unit import ExactSearchUnit
from muse_keras.models.views import BehaviorView, FoundBehaviors


@muse_keras_export()
class HashSamplingUnit(ExactSearchUnit):
    """Sums the behaviors that share a hash with the candidate.

    In each of G rounds t random hyperplanes cut the space of embeddings into
    2**t buckets. A round's interest is the sum of the embeddings in the
    candidate's bucket, divided by its length; the interest is the mean over
    the rounds. A behavior at angle `a` to the candidate shares its bucket
    with probability `(1 - a / pi) ** t`: with many rounds, attention by that
    weight, over the whole history. Gradients flow through the sums, not
    through the hashes; the hyperplanes are drawn once, saved, never trained.

    No search is needed, and what one found is not modeled. The weights of
    found behaviors are the shares of the rounds in which they are in the
    candidate's bucket; they do not sum to 1.

    Buckets are summed once per request: O(L G 2**t E), with 4 G 2**t bytes
    for each behavior; a candidate then takes O(G 2**t E).

    Reference: SDIM, arXiv 2205.10249, which has G = 16 rounds of t = 3 bits.

    Args:
        num_rounds: int, rounds G.
        bits_per_round: int, hyperplanes t of a round.
        num_tiers: int, tiers of `count_tiers`.
        seed: int, for the hyperplanes.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        See `ExactSearchUnit`. `history` is required, `found` only with
        `return_attention_scores`.

    Output shape:
        Features `(B, C, E)`; with `return_attention_scores` also float32
        shares `(B, C, 1, K)`.

    Example:
    >>> from muse_keras.models import MUSE
    >>> MUSE(9, {}, {}, esu="sdim", hash_rounds=8).exact_search_unit.num_rounds
    8
    """

    def __init__(
        self,
        num_rounds: int = 16,
        bits_per_round: int = 3,
        num_tiers: int = 20,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_rounds = integer("num_rounds", num_rounds)
        self.bits_per_round = integer("bits_per_round", bits_per_round)
        self.seed = seed_of(seed)
        self.attention = None
        self.tiers = SimTier(num_tiers, learnable=False, name="sim_tier")

    def build(self, target_shape: Any) -> None:
        """Draw the hyperplanes."""
        count = self.num_rounds * self.bits_per_round
        self.planes = add_planes(self, target_shape[-1], count, self.seed)
        self.tiers.build()
        self.built = True

    def call(
        self,
        target: Any,
        found: FoundBehaviors | None = None,
        history: BehaviorView | None = None,
        return_attention_scores: bool = False,
    ) -> Any:
        """Return features, and shares of collisions if asked for."""
        if history is None:
            raise ValueError("`history` must be given. Received: None")
        own = self._buckets(target)
        interest = self._interest(own, history)
        if not return_attention_scores:
            return interest
        if found is None:
            raise ValueError(
                "`found` must be given with `return_attention_scores`. "
                "Received: None"
            )
        others = self._buckets(found.embeddings)
        return interest, self._shares(own, others, found.mask)

    def compute_output_shape(self, target_shape: Any) -> tuple[Any, ...]:
        """Return the shape of the features."""
        return tuple(target_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "num_rounds": self.num_rounds,
            "bits_per_round": self.bits_per_round,
            "num_tiers": self.tiers.num_tiers,
            "seed": self.seed,
        }

    def _buckets(self, embeddings: Any) -> Any:
        """Return the bucket of each round, float32 (..., rounds)."""
        sides = signs(embeddings, self.planes)
        shape = (*ops.shape(sides)[:-1], self.num_rounds, self.bits_per_round)
        bits = ops.maximum(ops.reshape(sides, shape), 0.0)
        places = 2.0 ** ops.arange(self.bits_per_round, dtype="float32")
        return ops.sum(bits * places, axis=-1)

    def _one_hot(self, buckets: Any) -> Any:
        """Return float32 (..., rounds * buckets) of (..., rounds)."""
        count = 2**self.bits_per_round
        numbers = ops.arange(count, dtype="float32")
        hot = ops.cast(ops.expand_dims(buckets, -1) == numbers, "float32")
        shape = (*ops.shape(buckets)[:-1], self.num_rounds * count)
        return ops.reshape(hot, shape)

    def _interest(self, own: Any, history: BehaviorView) -> Any:
        """Return the mean of the rounds' interests, (B, C, E)."""
        embeddings = ops.cast(history.embeddings, "float32")
        members = self._one_hot(self._buckets(embeddings))
        members = members * ops.expand_dims(
            ops.cast(history.mask, "float32"), 2
        )
        sums = ops.matmul(ops.transpose(members, (0, 2, 1)), embeddings)
        squares = ops.sum(sums * sums, axis=-1, keepdims=True)
        # An empty bucket stays zero.
        unit = sums * ops.rsqrt(ops.maximum(squares, 1e-12))
        interest = ops.matmul(self._one_hot(own), unit) / self.num_rounds
        return ops.cast(interest, self.compute_dtype)

    def _shares(self, own: Any, others: Any, mask: Any) -> Any:
        """Return in what share of rounds buckets agree, (B, C, 1, K)."""
        same = ops.cast(ops.expand_dims(own, 2) == others, "float32")
        shares = ops.mean(same, axis=-1) * ops.cast(mask, "float32")
        return ops.expand_dims(shares, 2)
