"""MISS: searches by ids and by content, side by side."""

from muse_keras._export import muse_keras_export
from muse_keras.models.search_ranker import SearchRanker


@muse_keras_export()
class MISS(SearchRanker):
    """Half of the behaviors by ids, half by content, then target attention.

    Half of the K behaviors by cosine of trained embeddings, half by cosine
    of multimodal vectors (`DualSearch`), then id-only target attention.

    Reference: MISS, arXiv 2508.14515; as a ranking baseline in MUSE,
    arXiv 2512.07216.

    Example:
    >>> from muse_keras.models import MISS
    >>> model = MISS(100, (3, 3, 3, 3, 3), 9, 5, 5, vector_dim=8, k=20)
    >>> model.search.k
    20
    """

    own_gsu = "dual"
    own_esu = "ta"
