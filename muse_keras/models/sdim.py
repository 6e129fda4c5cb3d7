"""SDIM: no search, interest sampled by hashes."""

from muse_keras._export import muse_keras_export
from muse_keras.models.search_ranker import SearchRanker


@muse_keras_export()
class SDIM(SearchRanker):
    """Sums of the behaviors that share hashes with the candidate.

    The whole history is modeled, in `hash_rounds` rounds of 3 random
    hyperplanes each. `explain` tells about the `k` newest behaviors.

    Reference: SDIM, arXiv 2205.10249.

    Example:
    >>> from muse_keras.models import SDIM
    >>> model = SDIM(100, (3, 3, 3, 3, 3), 9, 5, 5, vector_dim=8, hash_rounds=8)
    >>> model.exact_search_unit.num_rounds
    8
    """

    own_gsu = "none"
    own_esu = "sdim"
