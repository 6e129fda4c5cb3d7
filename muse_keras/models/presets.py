"""Presets: the rankers of the comparison, each a search and an exact unit."""

from muse_keras._export import muse_keras_export
from muse_keras.models.search_ranker import SearchRanker


@muse_keras_export()
class DIN(SearchRanker):
    """Target attention over the newest behaviors, without a long history.

    The baseline: the same embeddings, short-term part and tower as `MUSE`,
    and nothing else: neither search nor exact search unit, unless `gsu` or
    `esu` are given. `explain` tells about the newest behaviors
    (K = `recent`).

    Reference: DIN, arXiv 1706.06978; as a baseline in MUSE,
    arXiv 2512.07216.

    Example:
    >>> from muse_keras.models import DIN
    >>> model = DIN(100, (3, 3, 3), 9, 5, 5, recent=20)
    >>> model.search is None and model.exact_search_unit is None
    True
    """

    own_gsu = None
    own_esu = None


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
