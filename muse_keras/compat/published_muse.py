"""MUSE with the formulas of the published PyTorch implementation."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import integer, integers
from muse_keras._ops.cosine import cosine_matrix, cosine_parts
from muse_keras._ops.positions import take_positions
from muse_keras.compat.two_logit_tower import TwoLogitTower
from muse_keras.layers.semantic_aware_target_attention import (
    SemanticAwareTargetAttention,
)
from muse_keras.layers.sim_tier import SimTier
from muse_keras.layers.target_attention import TargetAttention
from muse_keras.models.base_ranker import BaseRanker, Explanation
from muse_keras.models.behavior_search import CosineSearch
from muse_keras.models.short_term_interest import RecentBehaviors

_TIERS = 22
# What the published model fixes, and a configuration therefore leaves out.
_FIXED: dict[str, Any] = {
    "num_tiers": _TIERS,
    "tier_scale": "log1p",
    "num_heads": 1,
    "attention_activation": "silu",
}


@muse_keras_export()
class PublishedMUSE(BaseRanker):
    """The model whose checkpoints `load_published_weights` reads.

    It takes the inputs of `MUSE` and differs in what it computes from them:
    projections have biases; short-term attention has neither an activation
    nor values of its own; SimTier has 22 tiers that include their upper
    edges; the found behaviours are also mean-pooled; profile fields may be of
    different widths; the tower ends in two outputs and normalises over units;
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
        k: int, behaviours retrieved for each candidate.
        count_padding: bool. True: where a history has fewer behaviours than
            are looked at, the rest counts as behaviours with zero embeddings
            and similarity 0, as published. False: it counts nowhere.

    Example:
    >>> from muse_keras.compat import PublishedMUSE
    >>> model = PublishedMUSE(
    ...     100, (50, 4, 4, 4, 4, 4), 9, 5, 5, embedding_dim=8
    ... )
    >>> [table.dim for table in model.profile_embeddings]
    [8, 8, 8, 4, 4, 4]
    """

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
        vector_dim: int = 128,
        embedding_dim: int = 16,
        recent: int = 50,
        hidden_units: Sequence[int] = (256, 128, 64),
        oov_rate: float = 0.0,
        seed: int | None = None,
        spare_rows: int = 0,
        **kwargs: Any,
    ) -> None:
        """Set the arguments; see the class."""
        super().__init__(
            num_items,
            profile_sizes,
            category_size,
            city_size,
            province_size,
            vector_dim=vector_dim,
            embedding_dim=embedding_dim,
            recent=recent,
            hidden_units=hidden_units,
            oov_rate=oov_rate,
            seed=seed,
            spare_rows=spare_rows,
            **kwargs,
            **_FIXED,
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
        self.assemble()

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = super().get_config()
        for name in _FIXED:
            del config[name]
        config.update(
            {
                "profile_dims": self.profile_dims,
                "k": self.k,
                "count_padding": self.count_padding,
            }
        )
        return config

    def _make_layers(self) -> None:
        """Make, not build, all layers."""
        self._make_tables()
        self.profile_embeddings = [
            self._embedding(rows, f"profile_embedding_{number}", dim)
            for number, (rows, dim) in enumerate(
                zip(self.profile_sizes, self.profile_dims, strict=True)
            )
        ]
        self.search = CosineSearch(self.k, name="search")
        self.search.read_vectors_with(self.table.vectors)
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

        def tiers(name: str) -> SimTier:
            return SimTier(
                _TIERS, edges="ceil", dtype=self.dtype_policy, name=name
            )

        self.short_tiers = tiers("short_tiers")
        self.long_tiers = tiers("long_tiers")
        self.tower = TwoLogitTower(
            self.hidden_units, dtype=self.dtype_policy, name="tower"
        )
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def _build_layers(self) -> None:
        """Build all layers: their shapes follow from the arguments."""
        self._build_tables(*self.profile_embeddings)
        dim = self.embedding_dim
        item = (None, None, 2 * dim)
        self.search.build()
        self.short_attention.build(item, item)
        self.long_attention.build(item, (None, None, None, 2 * dim))
        self.short_tiers.build()
        self.long_tiers.build()
        # Two interests, two means; id, category, city, province; tiers.
        width = 4 * 2 * dim + 4 * dim + sum(self.profile_dims) + 2 * _TIERS
        self.tower.build((None, None, width))

    def _score(
        self,
        inputs: dict[str, Any],
        training: bool | None,
        explaining: bool = False,
    ) -> tuple[Any, Explanation]:
        """Return logits and what they are based on."""
        inputs = self._checked(inputs)
        candidates, behaviors, target = self._views(inputs, training)
        short, short_mean, short_tiers = self._short_term(
            target, candidates.vectors, self._recent(behaviors, training)
        )
        found = self._find(target, candidates, behaviors, training, True)
        embedded = self._embed_items(
            take_positions(behaviors.rows, found.indices),
            take_positions(behaviors.categories, found.indices),
            training,
        )
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
        self._profile_fields(profile)
        return ops.concatenate(
            [
                table(profile[:, number])
                for number, table in enumerate(self.profile_embeddings)
            ],
            axis=-1,
        )


def _without_padding(embeddings: Any, mask: Any) -> Any:
    """Return embeddings (..., K, E), zero where there is no behaviour."""
    real = ops.cast(mask, embeddings.dtype)
    return embeddings * ops.expand_dims(real, -1)


def _mean(embeddings: Any, mask: Any) -> Any:
    """Return the mean over K of (..., K, E) that are zero where masked."""
    if mask is None:
        return ops.mean(embeddings, axis=-2)
    count = ops.sum(ops.cast(mask, "float32"), axis=-1, keepdims=True)
    scale = ops.cast(1.0 / ops.maximum(count, 1.0), embeddings.dtype)
    return ops.sum(embeddings, axis=-2) * scale
