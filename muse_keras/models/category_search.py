"""SIM's hard search: behaviors of the candidate's category."""

from muse_keras._export import muse_keras_export
from muse_keras._ops.categories import newest_of_category
from muse_keras.models.behavior_search import BehaviorSearch
from muse_keras.models.views import BehaviorView, CandidateView, FoundBehaviors


@muse_keras_export()
class CategorySearch(BehaviorSearch):
    """The K newest behaviors of the candidate's category.

    Order: newest first. Category 0 (missing) finds nothing; items of
    categories outside the vocabulary share an index and find each other.
    A history is sorted by category once, in O(L log L); a candidate takes
    O(log L + K), in time and memory.

    Reference: SIM (hard search), arXiv 2006.05639.

    Args:
        k: int, behaviors kept for each candidate.
        **kwargs: see `keras.layers.Layer`.

    Example:
    >>> import numpy as np
    >>> from muse_keras.models import (
    ...     BehaviorView, CandidateView, CategorySearch
    ... )
    >>> categories = np.array([[3, 1, 3, 2, 3]], "int32")
    >>> codes = np.ones((1, 5, 4), "int8")
    >>> search = CategorySearch(k=2)
    >>> search.build()
    >>> found = search(
    ...     CandidateView(np.array([[9]]), np.array([[3]]), codes[:, :1]),
    ...     BehaviorView(categories, categories, categories > 0, codes),
    ... )
    >>> np.asarray(found.indices)
    array([[[4, 2]]], dtype=int32)
    """

    def call(
        self, candidates: CandidateView, behaviors: BehaviorView
    ) -> FoundBehaviors:
        """Search; see the class."""
        indices, mask = newest_of_category(
            candidates.categories,
            behaviors.categories,
            behaviors.mask,
            self.k,
        )
        return FoundBehaviors.at(candidates, behaviors, indices, mask)
