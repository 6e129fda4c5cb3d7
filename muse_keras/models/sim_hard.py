"""SIM with the hard search."""

from muse_keras._export import muse_keras_export
from muse_keras.models.search_ranker import SearchRanker


@muse_keras_export()
class SIMHard(SearchRanker):
    """The newest behaviors of the candidate's category, modeled as in MUSE.

    Category search, then SA-TA and SimTier.

    Reference: SIM, arXiv 2006.05639; as a baseline in MUSE, arXiv 2512.07216,
    which gives it MUSE's exact search unit.

    Example:
    >>> from muse_keras.models import SIMHard
    >>> model = SIMHard(100, (3, 3, 3, 3, 3), 9, 5, 5, vector_dim=8, k=20)
    >>> model.search.k
    20
    """

    own_gsu = "category"
    own_esu = "sa_ta_simtier"
