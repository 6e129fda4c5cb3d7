"""No search at all: the newest behaviors."""

from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.positions import newest_positions
from muse_keras.models.behavior_search import BehaviorSearch
from muse_keras.models.views import BehaviorView, CandidateView, FoundBehaviors


@muse_keras_export()
class NewestSearch(BehaviorSearch):
    """The K newest behaviors, the same for every candidate.

    What a model without a search sees. Order: newest first. Takes O(L) per
    request.

    Args:
        k: int, behaviors kept for each candidate.
        **kwargs: see `keras.layers.Layer`.

    Example:
    >>> import numpy as np
    >>> from muse_keras.models import BehaviorView, CandidateView, NewestSearch
    >>> rows = np.array([[5, 6, 7]], "int32")
    >>> search = NewestSearch(k=2)
    >>> search.build()
    >>> found = search(
    ...     CandidateView(rows[:, :1]), BehaviorView(rows, rows > 0)
    ... )
    >>> np.asarray(found.indices)
    array([[[2, 1]]], dtype=int32)
    """

    def call(
        self, candidates: CandidateView, behaviors: BehaviorView
    ) -> FoundBehaviors:
        """Return the newest behaviors; see the class."""
        newest, real = newest_positions(behaviors.mask, self.k)
        # As float32: TensorFlow cannot broadcast int32 on a GPU.
        shape = (*ops.shape(candidates.rows), 1)
        zeros = ops.zeros(shape, dtype="float32")
        indices = zeros + ops.expand_dims(ops.cast(newest, "float32"), 1)
        mask = (zeros + ops.expand_dims(ops.cast(real, "float32"), 1)) > 0.0
        indices = ops.cast(indices, "int32")
        return FoundBehaviors.at(candidates, behaviors, indices, mask)
