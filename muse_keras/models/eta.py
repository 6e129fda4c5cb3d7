"""ETA: search by hashes."""

from muse_keras._export import muse_keras_export
from muse_keras.models.search_ranker import SearchRanker


@muse_keras_export()
class ETA(SearchRanker):
    """The behaviors of the smallest Hamming distance, and target attention.

    Search by `hash_bits` random hyperplanes through the space of trained
    embeddings, then target attention over what was found.

    Reference: ETA, arXiv 2108.04468.

    Example:
    >>> from muse_keras.models import ETA
    >>> model = ETA(100, (3, 3, 3, 3, 3), 9, 5, 5, vector_dim=8, hash_bits=32)
    >>> model.search.num_bits
    32
    """

    own_gsu = "simhash"
    own_esu = "ta"
