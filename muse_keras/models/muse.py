"""MUSE: multimodal search over a lifelong history."""

from collections.abc import Sequence
from typing import Any

from muse_keras._export import muse_keras_export
from muse_keras.models.base_ranker import BaseRanker
from muse_keras.models.behavior_search import BehaviorSearch, CosineSearch
from muse_keras.models.exact_search_unit import (
    ExactSearchUnit,
    SemanticExactSearchUnit,
)


@muse_keras_export()
class MUSE(BaseRanker):
    """Simple search, rich modelling: cosine top-K, then SA-TA and SimTier.

    Reference: MUSE, arXiv 2512.07216.

    Args:
        num_items: int, items in the item table.
        profile_sizes: sequence of int, sizes of the profile vocabularies.
        category_size: int, size of the category vocabulary.
        city_size: int, size of the city vocabulary.
        province_size: int, size of the province vocabulary.
        k: int, behaviours retrieved for each candidate.
        similarity_scale: float, where the learned factor on similarities in
            SA-TA starts, or None.
        **kwargs: see `BaseRanker`.

    Call arguments:
        See `BaseRanker`.

    Output shape:
        logits `(B, C)` float32

    Example:
    >>> import numpy as np
    >>> from muse_keras.models import MUSE
    >>> model = MUSE(100, (3, 3, 3, 3, 3), 9, 5, 5, vector_dim=8)
    >>> inputs = {
    ...     "user_profile": np.ones((1, 5), "int32"),
    ...     "behavior_rows": np.array([[3, 4, 5]], "int32"),
    ...     "behavior_categories": np.array([[1, 2, 1]], "int32"),
    ...     "behavior_mask": np.array([[True, True, True]]),
    ...     "candidate_rows": np.array([[4, 7]], "int32"),
    ...     "candidate_categories": np.array([[2, 3]], "int32"),
    ...     "candidate_cities": np.array([[1, 1]], "int32"),
    ...     "candidate_provinces": np.array([[1, 1]], "int32"),
    ...     "candidate_category_matches": np.array([[1.0, 0.0]], "float32"),
    ... }
    >>> tuple(model(inputs).shape)
    (1, 2)
    """

    def __init__(
        self,
        num_items: int,
        profile_sizes: Sequence[int],
        category_size: int,
        city_size: int,
        province_size: int,
        k: int = 50,
        similarity_scale: float | None = 10.0,
        **kwargs: Any,
    ) -> None:
        """Set the arguments; see the class."""
        super().__init__(
            num_items,
            profile_sizes,
            category_size,
            city_size,
            province_size,
            **kwargs,
        )
        self.k = k
        self.similarity_scale = similarity_scale
        self.assemble()

    def make_search(self) -> BehaviorSearch:
        """Return the cosine search."""
        return CosineSearch(self.k, name="search")

    def make_exact_search_unit(self) -> ExactSearchUnit:
        """Return SA-TA beside SimTier."""
        return SemanticExactSearchUnit(
            num_heads=self.num_heads,
            activation=self.attention_activation,
            similarity_scale=self.similarity_scale,
            num_tiers=self.num_tiers,
            tier_scale=self.tier_scale,
            dtype=self.dtype_policy,
            name="exact_search_unit",
        )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = super().get_config()
        config.update({"k": self.k, "similarity_scale": self.similarity_scale})
        return config
