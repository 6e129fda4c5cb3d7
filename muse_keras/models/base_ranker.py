"""Base class of rankers, which differ in the long history alone."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from muse_keras._ops.checks import integer
from muse_keras._ops.shapes import masked_mean
from muse_keras.layers.gsu_top_k import GSUResult
from muse_keras.models.behavior_search import BehaviorSearch
from muse_keras.models.exact_search_unit import ExactSearchUnit
from muse_keras.models.request_model import Explanation, RequestModel
from muse_keras.models.score_tower import ScoreTower
from muse_keras.models.short_term_interest import (
    RecentBehaviors,
    ShortTermInterest,
    newest_behaviors,
)
from muse_keras.models.views import FoundBehaviors


class BaseRanker(RequestModel):
    """Scores the candidates of a request against the user's history.

    A ranker embeds the user's profile and the candidate, models the newest
    behaviors (`ShortTermInterest`), and, if the subclass has one, searches
    the long history (`BehaviorSearch`) and models what was found
    (`ExactSearchUnit`). All is concatenated and scored by a `ScoreTower`.
    A subclass overrides `make_search` and `make_exact_search_unit`, and ends
    its constructor with `self.assemble()`. Its docstring and signature are
    completed by the arguments that it passes on to its base's.

    Behaviors and candidates share one table of item-id embeddings, whose
    rows are those of the item table (row 0 for unknown items), and one of
    categories. At inference a candidate's score depends on its request and
    itself only: not on other candidates, padding or the rest of the batch.

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
        profile_sizes: Sequence[int],
        category_size: int,
        city_size: int,
        province_size: int,
        vector_dim: int = 128,
        embedding_dim: int = 16,
        recent: int = 50,
        num_tiers: int = 20,
        tier_scale: str = "log1p",
        hidden_units: Sequence[int] = (256, 128, 64),
        num_heads: int = 1,
        attention_activation: Any = "silu",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_items,
            profile_sizes,
            category_size,
            city_size,
            province_size,
            vector_dim,
            embedding_dim,
            recent,
            hidden_units,
            **kwargs,
        )
        self.num_tiers = integer("num_tiers", num_tiers)
        self.tier_scale = tier_scale
        self.num_heads = integer("num_heads", num_heads)
        self.attention_activation = keras.activations.get(attention_activation)

    def assemble(self) -> None:
        """Make and build all layers; the last act of a constructor."""
        # All profile fields in one table, one after the other.
        self.profile_embedding = self.embedding(
            "profile_embedding", sum(self.profile_sizes)
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
            self.hidden_units, dtype=self.dtype_policy, name="tower"
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
        candidate_features = [
            target,
            self.city_embedding(inputs["candidate_cities"]),
            self.province_embedding(inputs["candidate_provinces"]),
            self._matches(inputs["candidate_category_matches"]),
            short,
        ]
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
            candidate_features.append(long)
        user_features = [
            self._profile(inputs["user_profile"]),
            masked_mean(recent.embeddings, recent.mask),
        ]
        features = self._join(user_features, candidate_features)
        logits = self.tower(features, mask=candidates.mask, training=training)
        return logits, explanation

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "num_tiers": self.num_tiers,
            "tier_scale": self.tier_scale,
            "num_heads": self.num_heads,
            "attention_activation": keras.activations.serialize(
                self.attention_activation
            ),
        }

    def _build_layers(self) -> None:
        self.build_tables(self.profile_embedding)
        dim = self.embedding_dim
        item = 2 * dim
        target = (None, None, item)
        self.short_term.build(target)
        interest = self.num_tiers + item
        # Candidate id, category, city, province; profile; pooled; matches.
        width = 4 * dim + len(self.profile_sizes) * dim + item + 1 + interest
        if self.search is not None:
            self.search.build()
            self.exact_search_unit.build(target)
            width += self.exact_search_unit.compute_output_shape(target)[-1]
        self.tower.build((None, None, width))

    def _short_explanation(
        self, recent: RecentBehaviors, found: GSUResult, scores: Any
    ) -> Explanation:
        """Return what a score without a long-term part is based on."""
        tiers = self.short_term.tiers.count(found.similarities, found.mask)
        # The attention sees recent behaviors without a vector too.
        mask = ops.logical_or(found.mask, ops.expand_dims(recent.mask, 1))
        shown = FoundBehaviors(found.indices, mask, found.similarities)
        return Explanation(shown, scores, tiers)

    def _profile(self, profile: Any) -> Any:
        """Return the profile's embeddings, (B, profiles * embedding_dim)."""
        sizes = np.array(self.profile_sizes, np.int64)
        starts = np.cumsum(sizes) - sizes
        # An index outside its vocabulary must not read another field's row.
        last = ops.convert_to_tensor(sizes - 1, dtype="float32")
        profile = ops.minimum(ops.cast(profile, "float32"), last)
        profile = ops.maximum(profile, 0.0)
        starts = ops.convert_to_tensor(starts, dtype="float32")
        rows = ops.cast(profile + starts, "int32")
        embedded = self.profile_embedding(rows)
        return ops.reshape(embedded, (-1, len(sizes) * self.embedding_dim))

    def _matches(self, matches: Any) -> Any:
        """Return the category-match feature, (B, C, 1)."""
        matches = ops.maximum(ops.cast(matches, "float32"), 0.0)
        matches = ops.cast(ops.log1p(matches), self.compute_dtype)
        return ops.expand_dims(matches, -1)

    def _join(self, user: list[Any], candidate: list[Any]) -> Any:
        """Return all features of each candidate, (B, C, F)."""
        joined = ops.concatenate(candidate, axis=-1)
        shared = ops.expand_dims(ops.concatenate(user, axis=-1), 1)
        ones = ops.ones_like(joined[:, :, :1])
        return ops.concatenate([shared * ones, joined], axis=-1)
