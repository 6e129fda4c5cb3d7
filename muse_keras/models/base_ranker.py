"""Base class of rankers, which differ in the long history alone."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from muse_keras._ops.checks import integer
from muse_keras._ops.feature_columns import Size, columns_of
from muse_keras._ops.replicas import uniform_over_replicas
from muse_keras._ops.shapes import masked_mean, mean_of_given
from muse_keras.layers.gsu_top_k import GSUResult
from muse_keras.models.behavior_search import BehaviorSearch
from muse_keras.models.exact_search_unit import ExactSearchUnit
from muse_keras.models.ranker_inputs import features_of
from muse_keras.models.request_model import Explanation, RequestModel
from muse_keras.models.score_tower import ScoreTower
from muse_keras.models.short_term_interest import (
    RecentBehaviors,
    ShortTermInterest,
    newest_behaviors,
)
from muse_keras.models.views import (
    BehaviorView,
    CandidateView,
    FoundBehaviors,
)

# Share of the training requests that lack the features of training alone.
_HIDDEN_SHARE = 0.1


class Scored(NamedTuple):
    """What a ranker knows of its candidates before the tower.

    Attributes:
        features: dict of lists of floats: "user" (B, F); "candidate",
            "context" and "interest" (B, C, F).
        candidates: `CandidateView`.
        behaviors: `BehaviorView`, the whole history.
        recent: `RecentBehaviors`, the newest ones.
        found: `FoundBehaviors` of the search; without one, the similarities
            of the newest behaviors as a `GSUResult`.
    """

    features: dict[str, list[Any]]
    candidates: CandidateView
    behaviors: BehaviorView
    recent: RecentBehaviors
    found: Any


class BaseRanker(RequestModel):
    """Scores the candidates of a request against the user's history.

    A ranker embeds the user's features and the candidate, models the newest
    behaviors (`ShortTermInterest`), and, if the subclass has one, searches
    the long history (`BehaviorSearch`) and models what was found
    (`ExactSearchUnit`). All is concatenated and scored by a `ScoreTower`.
    A subclass overrides `make_search` and `make_exact_search_unit`, and ends
    its constructor with `self.assemble()`. Its docstring and signature are
    completed by the arguments that it passes on to its base's.

    Behaviors and candidates share one table of item-id embeddings, whose
    rows are those of the item table (row 0 for unknown items), and one for
    each feature that both have. At inference a candidate's score depends on
    its request and itself only: not on other candidates, padding or the rest
    of the batch.

    All weights exist after construction; `ranker.table.assign(item_table)`
    fills the frozen multimodal table.

    Args:
        num_tiers: int, tiers of SimTier.
        tier_scale: str, `scale` of SimTier.
        num_heads: int, attention heads.
        attention_activation: activation of the attentions' projections.
    """

    def __init__(
        self,
        num_items: int,
        user_sizes: Mapping[str, Size],
        item_sizes: Mapping[str, Size],
        behavior_features: Sequence[str] = (),
        matches: Sequence[str] = (),
        num_tiers: int = 20,
        tier_scale: str = "log1p",
        num_heads: int = 1,
        attention_activation: Any = "silu",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_items,
            user_sizes,
            item_sizes,
            behavior_features,
            matches,
            **kwargs,
        )
        self.num_tiers = integer("num_tiers", num_tiers)
        self.tier_scale = tier_scale
        self.num_heads = integer("num_heads", num_heads)
        self.attention_activation = keras.activations.get(attention_activation)

    def assemble(self) -> None:
        """Make and build all layers; the last act of a constructor."""
        # All features of the user in one table, one after the other.
        self.user_embedding: Any = None
        if self.user_sizes:
            columns = columns_of(self.user_sizes).values()
            self.user_embedding = self.embedding(
                "user_embedding", sum(own.size for own in columns)
            )
        self.short_term = ShortTermInterest(
            num_heads=self.num_heads,
            activation=self.attention_activation,
            num_tiers=self.num_tiers,
            tier_scale=self.tier_scale,
            dtype=self.dtype_policy,
            name="short_term",
        )
        self.search: Any = self.make_search()
        self.exact_search_unit: Any = self.make_exact_search_unit()
        if (self.search is None) != (self.exact_search_unit is None):
            raise ValueError(
                "`make_search` and `make_exact_search_unit` must both return "
                f"a layer or both None. Received: {self.search}, "
                f"{self.exact_search_unit}"
            )
        self.tower = ScoreTower(
            self.hidden_units,
            len(self.labels),
            dtype=self.dtype_policy,
            name="tower",
        )
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self._build_layers()
        self.built = True

    def make_search(self) -> BehaviorSearch | None:
        """Return the search of the long history, or None for no search."""
        return None

    def make_exact_search_unit(self) -> ExactSearchUnit | None:
        """Return what models the behaviors found, or None."""
        return None

    def score(
        self,
        inputs: dict[str, Any],
        training: bool | None,
        explaining: bool = False,
    ) -> tuple[Any, Any]:
        """Return logits, and their `Explanation` or None; see the base."""
        unit = self.exact_search_unit
        attention = getattr(unit, "attention", None)
        candidates, behaviors = self.views(
            inputs, training, attention or self.short_term.attention
        )
        target = candidates.embeddings
        recent = newest_behaviors(behaviors, self.recent)
        short, scores, found = self.short_term(
            target, candidates.vectors, recent
        )
        interest = [short]
        explanation = None
        if unit is None:
            if explaining:
                explanation = self._short_explanation(recent, found, scores)
        else:
            found = FoundBehaviors.by(
                lambda: self.search(candidates, behaviors)
            )
            long = unit(
                target, found, behaviors, return_attention_scores=explaining
            )
            if explaining:
                long, scores = long
                tiers = unit.count_tiers(found)
                explanation = Explanation(found, scores, tiers)
            interest.append(long)
        features = {
            "user": [
                *self._user(inputs),
                *self._numbers(inputs, "user_numbers"),
                masked_mean(recent.embeddings, recent.mask),
            ],
            "candidate": [
                target,
                *self.other_embeddings(candidates),
                *self._numbers(inputs, "candidate_numbers"),
            ],
            "context": [
                *self._context(inputs, training),
                *self._numbers(inputs, "context_numbers"),
                *self._matches(inputs),
            ],
            "interest": interest,
        }
        joined, attended = self.combine(
            Scored(features, candidates, behaviors, recent, found), explaining
        )
        if attended is not None and explanation is not None:
            explanation = explanation._replace(attention=attended)
        logits = self.tower(joined, mask=candidates.mask, training=training)
        return logits, explanation

    def combine(self, scored: Scored, explaining: bool) -> tuple[Any, Any]:
        """Return the features of the tower, and attention weights or None.

        A subclass may model the features further.

        Args:
            scored: `Scored`.
            explaining: bool, whether weights are asked for.

        Returns:
            Float (B, C, F), and weights (B, C, heads, K) that replace those
            of the exact search unit in explanations, or None.
        """
        user, *others = scored.features.values()
        return self._join(user, [one for of in others for one in of]), None

    def build_combination(self, widths: Mapping[str, int]) -> int:
        """Make and build what `combine` needs; return its width F.

        Args:
            widths: dict, the width of each group of `Scored.features`.
        """
        return sum(widths.values())

    def _build_layers(self) -> None:
        target = (None, None, self.target_dim)
        self.short_term.build(target)
        size = self.embedding_dim
        widths = {
            # The mean of the newest behaviors, too.
            "user": len(self.user_sizes) * size
            + self.user_numbers
            + self.target_dim,
            "candidate": self.target_dim
            + (len(self.item_sizes) - len(self.behavior_features)) * size
            + self.item_numbers,
            "context": len(self.context_sizes) * size
            + self.context_numbers
            + len(self.matches),
            "interest": self.num_tiers + self.target_dim,
        }
        if self.search is not None:
            self.search.build()
            self.exact_search_unit.build(target)
            long = self.exact_search_unit.compute_output_shape(target)
            widths["interest"] += long[-1]
        self.tower.build((None, None, self.build_combination(widths)))

    def _short_explanation(
        self, recent: RecentBehaviors, found: GSUResult, scores: Any
    ) -> Explanation:
        """Return what a score without a long-term part is based on."""
        tiers = self.short_term.tiers.count(found.similarities, found.mask)
        # The attention sees recent behaviors without a vector too.
        mask = ops.logical_or(found.mask, ops.expand_dims(recent.mask, 1))
        shown = FoundBehaviors(found.indices, mask, found.similarities)
        return Explanation(shown, scores, tiers)

    def _user(self, inputs: dict[str, Any]) -> list[Any]:
        """Return embeddings of the user's features, (B, U * embedding_dim)."""
        if not self.user_sizes:
            return []
        columns = columns_of(self.user_sizes).values()
        repeats = [own.values for own in columns]
        sizes = np.array([own.size for own in columns], np.int64)
        starts = np.repeat(np.cumsum(sizes) - sizes, repeats)
        sizes = np.repeat(sizes, repeats)
        # An index outside its vocabulary must not read another one's row.
        last = ops.convert_to_tensor(sizes - 1, dtype="float32")
        indices = ops.cast(inputs["user_features"], "float32")
        indices = ops.maximum(ops.minimum(indices, last), 0.0)
        starts = ops.convert_to_tensor(starts, dtype="float32")
        embedded = self.user_embedding(ops.cast(indices + starts, "int32"))
        if max(repeats) > 1:
            return [
                embedded[:, own.place]
                if own.values == 1
                else mean_of_given(
                    embedded[:, own.place], indices[:, own.place]
                )
                for own in columns
            ]
        width = len(sizes) * self.embedding_dim
        return [ops.reshape(embedded, (-1, width))]

    def _context(
        self, inputs: dict[str, Any], training: bool | None
    ) -> list[Any]:
        """Return embeddings (B, C, E) of features of the impressions."""
        if not self.context_sizes:
            return []
        features = features_of(inputs, "context_features", self.context_sizes)
        if training and self.training_only:
            requests = ops.shape(inputs["context_features"])[:1]
            draw = uniform_over_replicas(requests, self.seed_generator)
        for name in self.training_only:
            values = features[name]
            nothing = ops.zeros_like(values)
            if training:
                shape = (-1, *[1] * (len(values.shape) - 1))
                hidden = ops.reshape(draw < _HIDDEN_SHARE, shape)
                nothing = ops.where(hidden, nothing, values)
            features[name] = nothing
        return [self.embedded(name, features) for name in self.context_sizes]

    def _numbers(self, inputs: dict[str, Any], name: str) -> list[Any]:
        """Return numbers as they are given, if the model has any of these."""
        values = inputs.get(name)
        if values is None:
            return []
        return [ops.cast(values, self.compute_dtype)]

    def _matches(self, inputs: dict[str, Any]) -> list[Any]:
        """Return logarithms of the match counts, (B, C, M)."""
        if not self.matches:
            return []
        matches = ops.cast(inputs["candidate_matches"], "float32")
        matches = ops.log1p(ops.maximum(matches, 0.0))
        return [ops.cast(matches, self.compute_dtype)]

    def _join(self, user: list[Any], candidate: list[Any]) -> Any:
        """Return all features of each candidate, (B, C, F)."""
        joined = ops.concatenate(candidate, axis=-1)
        shared = ops.expand_dims(ops.concatenate(user, axis=-1), 1)
        ones = ops.ones_like(joined[:, :, :1])
        return ops.concatenate([shared * ones, joined], axis=-1)
