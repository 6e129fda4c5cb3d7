"""MUSE: multimodal search over a lifelong history."""

from muse_keras._export import muse_keras_export
from muse_keras.models.search_ranker import SearchRanker


@muse_keras_export()
class MUSE(SearchRanker):
    """Simple search, rich modeling: cosine top-K, then SA-TA and SimTier.

    Reference: MUSE, arXiv 2512.07216.

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

    own_gsu = "scl_cosine"
    own_esu = "sa_ta_simtier"
