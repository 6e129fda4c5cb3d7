"""SIM with the soft search."""

from muse_keras._export import muse_keras_export
from muse_keras.models.search_ranker import SearchRanker


@muse_keras_export()
class SIMSoft(SearchRanker):
    """The behaviors nearest in trained embeddings, modeled as in MUSE.

    Cosine of trained id and category embeddings, without a gradient through
    the search, then SA-TA and SimTier.

    Reference: SIM, arXiv 2006.05639; as a baseline in MUSE, arXiv 2512.07216,
    which gives it MUSE's exact search unit.

    Example:
    >>> from muse_keras.models import SIMSoft
    >>> model = SIMSoft(100, (3, 3, 3, 3, 3), 9, 5, 5, vector_dim=8, k=20)
    >>> model.search.k
    20
    """

    own_gsu = "id_cosine"
    own_esu = "sa_ta_simtier"
