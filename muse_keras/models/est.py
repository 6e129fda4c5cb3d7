"""EST: stacked blocks of attention over what MUSE found."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import integer
from muse_keras._ops.feature_columns import Size
from muse_keras._ops.shapes import masked_mean
from muse_keras.layers.est_block import ESTBlock, content_neighbors
from muse_keras.models.base_ranker import Scored
from muse_keras.models.search_ranker import SearchRanker

_TOKENS = ("user", "candidate", "context", "interest")


@muse_keras_export()
class EST(SearchRanker):
    """Blocks of attention over the newest and the retrieved behaviors.

    The features of the user, the candidate, the context and the interests
    (SimTier, the identity signal and the short-term part) become a token each.
    `depth` blocks (`ESTBlock`) let these attend to the user's newest behaviors
    and to the K of MUSE's search. Tokens and means of the behaviors then go to
    the tower.

    Reference: EST, arXiv 2602.10811.

    Args:
        depth: int, number of blocks.
        width: int, width of tokens and behaviors in the blocks.

    Example:
    >>> from muse_keras.models import EST
    >>> len(EST(100, {"age": 9}, {"brand": 9}, depth=3, width=16).blocks)
    3
    """

    own_gsu = "scl_cosine"
    own_esu = "simtier_identity"

    def __init__(
        self,
        num_items: int,
        user_sizes: Mapping[str, Size],
        item_sizes: Mapping[str, Size],
        behavior_features: Sequence[str] = (),
        matches: Sequence[str] = (),
        depth: int = 2,
        width: int = 32,
        **kwargs: Any,
    ) -> None:
        self.depth = integer("depth", depth)
        self.width = integer("width", width)
        super().__init__(
            num_items,
            user_sizes,
            item_sizes,
            behavior_features,
            matches,
            **kwargs,
        )

    def combine(self, scored: Scored, explaining: bool) -> tuple[Any, Any]:
        """Return the features of the tower, and attention weights or None."""
        count = ops.shape(scored.candidates.rows)[1]
        tokens = []
        for name, dense in self.token_layers.items():
            features = ops.concatenate(scored.features[name], axis=-1)
            token = dense(features)
            if len(token.shape) == 2:  # Of the user: the same for all.
                token = ops.repeat(ops.expand_dims(token, 1), count, axis=1)
            tokens.append(token)
        stacked = ops.stack(tokens, axis=2)
        recent, found = scored.recent, scored.found
        codes = scored.behaviors.at(found.indices).vectors
        user = self.behavior_layer(recent.embeddings)
        own = self.behavior_layer(found.embeddings)
        near = content_neighbors(recent.vectors, recent.mask)
        k, dim = codes.shape[2:]
        own_near = content_neighbors(
            ops.reshape(codes, (-1, k, dim)), ops.reshape(found.mask, (-1, k))
        )
        own_near = ops.reshape(own_near, (-1, count, k, k))
        weights: Any = None
        for block in self.blocks:
            stacked, user, own, weights = block(
                stacked, user, own, recent.mask, found.mask, near, own_near
            )
        shape = (-1, count, len(tokens) * self.width)
        features = ops.reshape(stacked, shape)
        of_user = ops.expand_dims(masked_mean(user, recent.mask), 1)
        of_user = of_user + ops.zeros_like(features[..., : self.width])
        real = ops.expand_dims(ops.cast(found.mask, "float32"), 3)
        total = ops.maximum(ops.sum(real, axis=2), 1.0)
        means = ops.sum(own * ops.cast(real, own.dtype), axis=2)
        means = means / ops.cast(total, own.dtype)
        joined = ops.concatenate([features, of_user, means], axis=-1)
        if not explaining:
            return joined, None
        return joined, weights[..., recent.mask.shape[1] :]

    def build_combination(self, widths: Mapping[str, int]) -> int:
        """Make and build the blocks; return the width of their features."""
        options: dict[str, Any] = {"dtype": self.dtype_policy}
        self.token_layers = {}
        for name in _TOKENS:
            if widths[name]:
                dense = keras.layers.Dense(
                    self.width, name=f"{name}_token", **options
                )
                dense.build((None, None, widths[name]))
                self.token_layers[name] = dense
        self.behavior_layer = keras.layers.Dense(
            self.width, name="behaviors", **options
        )
        self.behavior_layer.build((None, None, self.target_dim))
        count = len(self.token_layers)
        self.blocks = [
            ESTBlock(count, name=f"block_{number}", **options)
            for number in range(self.depth)
        ]
        for block in self.blocks:
            block.build((None, None, count, self.width))
        return (count + 2) * self.width
