"""MUSE with the formulas of the published PyTorch implementation."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import integer, integers
from muse_keras._ops.cosine import cosine_matrix, cosine_parts
from muse_keras.compat.two_logit_tower import TwoLogitTower
from muse_keras.layers.semantic_aware_target_attention import (
    SemanticAwareTargetAttention,
)
from muse_keras.layers.sim_tier import SimTier
from muse_keras.layers.target_attention import TargetAttention
from muse_keras.models.behavior_search import CosineSearch
from muse_keras.models.request_model import Explanation, RequestModel
from muse_keras.models.short_term_interest import (
    RecentBehaviors,
    newest_behaviors,
)


@muse_keras_export()
class PublishedMUSE(RequestModel):
    """The model whose checkpoints `load_published_weights` reads.

    It takes the inputs of `MUSE` and differs in what it computes from them:
    projections have biases; short-term attention has neither an activation
    nor values of its own; SimTier has 22 tiers that include their upper
    edges; the found behaviors are also mean-pooled; profile fields may be of
    different widths; the tower ends in two outputs and normalizes over units;
    `candidate_category_matches` is not looked at.

    Reference: the implementation published with MUSE, arXiv 2512.07216.
    docs/checkpoint-import.md lists where results still differ.

    Args:
        profile_sizes: sequence of int, rows of the profile fields' tables,
            row 0 included.
        category_size: int, rows of the category table, row 0 included.
        city_size: int, rows of the city table, row 0 included.
        province_size: int, rows of the province table, row 0 included.
        profile_dims: sequence of int, widths of the profile fields'
            embeddings. None: `embedding_dim` for the first three fields, half
            of it for all others.
        k: int, behaviors retrieved for each candidate.
        count_padding: bool. True: where a history has fewer behaviors than
            are looked at, the rest counts as behaviors with zero embeddings
            and similarity 0, as published. False: it counts nowhere.

    Example:
    >>> from muse_keras.compat import PublishedMUSE
    >>> model = PublishedMUSE(
    ...     100, (50, 4, 4, 4, 4, 4), 9, 5, 5, embedding_dim=8
    ... )
    >>> [table.dim for table in model.profile_embeddings]
    [8, 8, 8, 4, 4, 4]
    """

    num_tiers = 22

    def __init__(
        self,
        num_items: int,
        profile_sizes: Sequence[int],
        category_size: int,
        city_size: int,
        province_size: int,
        profile_dims: Sequence[int] | None = None,
        k: int = 50,
        count_padding: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_items,
            profile_sizes,
            category_size,
            city_size,
            province_size,
            **kwargs,
        )
        count = len(self.profile_sizes)
        if profile_dims is None:
            half = max(self.embedding_dim // 2, 1)
            dims = [self.embedding_dim] * 3 + [half] * count
            profile_dims = dims[:count]
        if len(profile_dims) != count:
            raise ValueError(
                "`profile_dims` must have as many widths as `profile_sizes` "
                f"has fields, {count}. Received: profile_dims={profile_dims}"
            )
        self.profile_dims = integers("profile_dims", profile_dims)
        self.k = integer("k", k)
        self.count_padding = count_padding
        self.profile_embeddings = [
            self.embedding(f"profile_embedding_{number}", rows, dim)
            for number, (rows, dim) in enumerate(
                zip(self.profile_sizes, self.profile_dims, strict=True)
            )
        ]
        self.search = CosineSearch(self.k, name="search")
        self.short_attention = TargetAttention(
            use_bias=True, dtype=self.dtype_policy, name="short_attention"
        )
        self.long_attention = SemanticAwareTargetAttention(
            activation="silu",
            similarity_scale=10.0,
            use_bias=True,
            dtype=self.dtype_policy,
            name="long_attention",
        )
        self.short_tiers = self._tiers("short_tiers")
        self.long_tiers = self._tiers("long_tiers")
        self.tower = TwoLogitTower(
            self.hidden_units, dtype=self.dtype_policy, name="tower"
        )
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self._build_layers()
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "profile_dims": self.profile_dims,
            "k": self.k,
            "count_padding": self.count_padding,
        }

    def _tiers(self, name: str) -> SimTier:
        return SimTier(
            self.num_tiers, edges="ceil", dtype=self.dtype_policy, name=name
        )

    def _build_layers(self) -> None:
        self.build_tables(*self.profile_embeddings)
        dim = self.embedding_dim
        item = (None, None, 2 * dim)
        self.search.build()
        self.short_attention.build(item, item)
        self.long_attention.build(item, (None, None, None, 2 * dim))
        self.short_tiers.build()
        self.long_tiers.build()
        # Two interests, two means; id, category, city, province; tiers.
        width = (
            4 * 2 * dim + 4 * dim + sum(self.profile_dims) + 2 * self.num_tiers
        )
        self.tower.build((None, None, width))

    def score(
        self,
        inputs: dict[str, Any],
        training: bool | None,
        explaining: bool = False,
    ) -> tuple[Any, Any]:
        """Return logits, and their `Explanation` or None; see the base."""
        candidates, behaviors = self.views(inputs, training)
        target = candidates.embeddings
        short, short_mean, short_tiers = self._short_term(
            target, candidates.vectors, newest_behaviors(behaviors, self.recent)
        )
        found = self.search(candidates, behaviors)
        embedded = found.embeddings
        embedded = _without_padding(embedded, found.mask)
        mask = None if self.count_padding else found.mask
        long, attention = self.long_attention(
            target,
            embedded,
            found.similarities,
            mask=mask,
            return_attention_scores=True,
        )
        ones = ops.ones_like(target[:, :, :1])
        features = ops.concatenate(
            [
                short,
                long,
                _mean(embedded, mask),
                ops.expand_dims(short_mean, 1) * ones,
                target,
                self.city_embedding(inputs["candidate_cities"]),
                self.province_embedding(inputs["candidate_provinces"]),
                ops.expand_dims(self._profile(inputs["user_profile"]), 1)
                * ones,
                short_tiers,
                self.long_tiers(found.similarities, mask=mask),
            ],
            axis=-1,
        )
        logits = self.tower(features, training=training)
        if not explaining:
            return logits, None
        tiers = self.long_tiers.count(found.similarities, found.mask)
        return logits, Explanation(found, attention, tiers)

    def _short_term(
        self, target: Any, vectors: Any, recent: RecentBehaviors
    ) -> tuple[Any, Any, Any]:
        """Return attended values, their mean (B, E) and tiers."""
        embedded = _without_padding(recent.embeddings, recent.mask)
        mask = None if self.count_padding else recent.mask
        attended = self.short_attention(target, embedded, mask=mask)
        wanted, parts = cosine_parts(vectors), cosine_parts(recent.vectors)
        cosines = cosine_matrix(wanted, parts)
        real = ops.expand_dims(recent.mask, 1)
        cosines = ops.where(real, cosines, ops.zeros_like(cosines))
        if not self.count_padding:
            valid = ops.expand_dims(parts.valid, 1)
            real = ops.logical_and(real, valid)
            real = ops.logical_and(real, ops.expand_dims(wanted.valid, 2))
        tiers = self.short_tiers(
            cosines, mask=None if self.count_padding else real
        )
        return attended, _mean(embedded, mask), tiers

    def _profile(self, profile: Any) -> Any:
        """Return the profile's embeddings, (B, sum of widths)."""
        return ops.concatenate(
            [
                table(profile[:, number])
                for number, table in enumerate(self.profile_embeddings)
            ],
            axis=-1,
        )


def _without_padding(embeddings: Any, mask: Any) -> Any:
    """Return embeddings (..., K, E), zero where there is no behavior."""
    real = ops.cast(mask, embeddings.dtype)
    return embeddings * ops.expand_dims(real, -1)


def _mean(embeddings: Any, mask: Any) -> Any:
    """Return the mean over K of (..., K, E) that are zero where masked."""
    if mask is None:
        return ops.mean(embeddings, axis=-2)
    count = ops.sum(ops.cast(mask, "float32"), axis=-1, keepdims=True)
    scale = ops.cast(1.0 / ops.maximum(count, 1.0), embeddings.dtype)
    return ops.sum(embeddings, axis=-2) * scale
