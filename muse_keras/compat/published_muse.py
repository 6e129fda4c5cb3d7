"""MUSE with the formulas of the published PyTorch implementation."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import integer, integers
from muse_keras._ops.cosine import cosine_matrix, cosine_parts
from muse_keras._ops.feature_columns import Size, columns_of
from muse_keras.compat.two_logit_tower import TwoLogitTower
from muse_keras.layers.semantic_aware_target_attention import (
    SemanticAwareTargetAttention,
)
from muse_keras.layers.sim_tier import SimTier
from muse_keras.layers.target_attention import TargetAttention
from muse_keras.models.behavior_search import CosineSearch
from muse_keras.models.ranker_inputs import features_of
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
    edges; the found behaviors are also mean-pooled; the user's features may be
    of different widths; the tower ends in two outputs and normalizes over
    units; `candidate_matches` is not looked at.

    Reference: the implementation published with MUSE, arXiv 2512.07216.
    docs/checkpoint-import.md lists where results still differ.

    Args:
        user_dims: sequence of int, widths of the embeddings of the user's
            features. None: `embedding_dim` for the first three, half of it
            for all others.
        k: int, behaviors retrieved for each candidate.
        count_padding: bool. True: where a history has fewer behaviors than
            are looked at, the rest counts as behaviors with zero embeddings
            and similarity 0, as published. False: it counts nowhere.

    Example:
    >>> from muse_keras.compat import PublishedMUSE
    >>> names = "129_1", "130_1", "130_2", "130_3"
    >>> model = PublishedMUSE(100, dict.fromkeys(names, 4), {"category": 9})
    >>> [table.dim for table in model.user_embeddings]
    [16, 16, 16, 8]
    """

    num_tiers = 22

    def __init__(
        self,
        num_items: int,
        user_sizes: Mapping[str, Size],
        item_sizes: Mapping[str, Size],
        behavior_features: Sequence[str] = (),
        matches: Sequence[str] = (),
        user_dims: Sequence[int] | None = None,
        k: int = 50,
        count_padding: bool = True,
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
        self._refuse_what_was_not_published()
        count = len(self.user_sizes)
        if user_dims is None:
            half = max(self.embedding_dim // 2, 1)
            dims = [self.embedding_dim] * 3 + [half] * count
            user_dims = dims[:count]
        if len(user_dims) != count:
            raise ValueError(
                "`user_dims` must have as many widths as `user_sizes` has "
                f"features, {count}. Received: user_dims={user_dims}"
            )
        self.user_dims = integers("user_dims", user_dims)
        self.k = integer("k", k)
        self.count_padding = count_padding
        self.user_embeddings = [
            self.embedding(f"user_embedding_{number}", own.size, dim)
            for number, (own, dim) in enumerate(
                zip(
                    columns_of(self.user_sizes).values(),
                    self.user_dims,
                    strict=True,
                )
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

    def _refuse_what_was_not_published(self) -> None:
        others = {
            "context_sizes": self.context_sizes,
            "behavior_sizes": self.behavior_sizes,
            "user_numbers": self.user_numbers,
            "item_numbers": self.item_numbers,
            "context_numbers": self.context_numbers,
            "labels": self.labels[1:],
        }
        given = [name for name, value in others.items() if value]
        sizes = self.user_sizes | self.item_sizes
        given += [name for name in sizes if isinstance(sizes[name], tuple)]
        if given:
            raise ValueError(
                "PublishedMUSE has single categories of users and items, and "
                "one label: take `MUSE` for others. Received also: "
                f"{', '.join(given)}"
            )

    def _tiers(self, name: str) -> SimTier:
        return SimTier(
            self.num_tiers, edges="ceil", dtype=self.dtype_policy, name=name
        )

    def _build_layers(self) -> None:
        dim = self.target_dim
        item = (None, None, dim)
        self.search.build()
        self.short_attention.build(item, item)
        self.long_attention.build(item, (None, None, None, dim))
        self.short_tiers.build()
        self.long_tiers.build()
        # Two interests, two means; id and features of the candidate; tiers.
        width = 4 * dim + (1 + len(self.item_sizes)) * self.embedding_dim
        width += sum(self.user_dims) + 2 * self.num_tiers
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
                *self.other_embeddings(candidates),
                *(
                    ops.expand_dims(embedding, 1) * ones
                    for embedding in self._user(inputs)
                ),
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

    def _user(self, inputs: dict[str, Any]) -> list[Any]:
        """Return embeddings of the user's features, each (B, its width)."""
        indices = features_of(inputs, "user_features", self.user_sizes)
        return [
            table(values)
            for table, values in zip(
                self.user_embeddings, indices.values(), strict=True
            )
        ]


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
