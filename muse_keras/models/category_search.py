"""SIM's hard search: behaviors that share a feature with the candidate."""

from typing import Any

from muse_keras._export import muse_keras_export
from muse_keras._ops.categories import newest_of_category
from muse_keras.models.behavior_search import BehaviorSearch
from muse_keras.models.views import BehaviorView, CandidateView, FoundBehaviors


@muse_keras_export()
class CategorySearch(BehaviorSearch):
    """The K newest behaviors that have the candidate's value of a feature.

    Order: newest first. Value 0 (missing) finds nothing; items of values
    outside the vocabulary share an index and find each other. A history is
    sorted by the feature once, in O(L log L); a candidate takes O(log L + K),
    in time and memory.

    Reference: SIM (hard search), arXiv 2006.05639.

    Args:
        feature: str, name of the feature in the views.
        k: int, behaviors kept for each candidate.
        **kwargs: see `keras.layers.Layer`.

    Example:
    >>> import numpy as np
    >>> from muse_keras.models import (
    ...     BehaviorView, CandidateView, CategorySearch
    ... )
    >>> brands = np.array([[3, 1, 3, 2, 3]], "int32")
    >>> search = CategorySearch("brand", k=2)
    >>> search.build()
    >>> found = search(
    ...     CandidateView(brands[:, :1], features={"brand": brands[:, :1]}),
    ...     BehaviorView(brands, brands > 0, features={"brand": brands}),
    ... )
    >>> np.asarray(found.indices)
    array([[[4, 2]]], dtype=int32)
    """

    def __init__(self, feature: str, k: int = 50, **kwargs: Any) -> None:
        super().__init__(k=k, **kwargs)
        self.feature = feature

    def call(
        self, candidates: CandidateView, behaviors: BehaviorView
    ) -> FoundBehaviors:
        """Search; see the class."""
        indices, mask = newest_of_category(
            candidates.features[self.feature],
            behaviors.features[self.feature],
            behaviors.mask,
            self.k,
        )
        return FoundBehaviors.at(candidates, behaviors, indices, mask)
