"""TWIN: one attention in both stages."""

from muse_keras._export import muse_keras_export
from muse_keras.models.search_ranker import SearchRanker


@muse_keras_export()
class TWIN(SearchRanker):
    """The behaviors that the target attention weighs most, and that attention.

    Search by the logits of the exact unit's own target attention, then that
    attention and SimTier.

    Reference: TWIN, arXiv 2302.02352; as a baseline in MUSE, arXiv 2512.07216,
    which adds SimTier.

    Example:
    >>> from muse_keras.models import TWIN
    >>> model = TWIN(100, (3, 3, 3, 3, 3), 9, 5, 5, vector_dim=8, k=20)
    >>> model.search.k
    20
    """

    own_gsu = "target_attention"
    own_esu = "ta_simtier"
