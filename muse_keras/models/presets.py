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
    >>> DIN(100, {"age": 9}, {"brand": 9}, recent=20).search is None
    True
    """

    own_gsu = None
    own_esu = None


@muse_keras_export()
class FullDIN(SearchRanker):
    """Target attention over the whole history.

    What the two-stage methods approximate: nothing is searched, every behavior
    is attended to. `explain` tells about the `k` newest behaviors.

    Reference: DIN, arXiv 1706.06978.

    Example:
    >>> from muse_keras.models import FullDIN
    >>> FullDIN(100, {"age": 9}, {"brand": 9}).exact_search_unit.num_heads
    1
    """

    own_gsu = "none"
    own_esu = "full_ta"


@muse_keras_export()
class SIMHard(SearchRanker):
    """The newest behaviors of the candidate's category, modeled as in MUSE.

    Search by the first of `matches`, then SA-TA and SimTier.

    Reference: SIM, arXiv 2006.05639; as a baseline in MUSE, arXiv 2512.07216,
    which gives it MUSE's exact search unit.

    Example:
    >>> from muse_keras.models import SIMHard
    >>> SIMHard(100, {}, {"brand": 9}, ["brand"], ["brand"]).search.feature
    'brand'
    """

    own_gsu = "category"
    own_esu = "sa_ta_simtier"


@muse_keras_export()
class SIMSoft(SearchRanker):
    """The behaviors nearest in trained embeddings, modeled as in MUSE.

    Cosine of trained embeddings, without a gradient through the search, then
    SA-TA and SimTier.

    Reference: SIM, arXiv 2006.05639; as a baseline in MUSE, arXiv 2512.07216,
    which gives it MUSE's exact search unit.

    Example:
    >>> from muse_keras.models import SIMSoft
    >>> SIMSoft(100, {"age": 9}, {"brand": 9}, k=20).search.k
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
    >>> ETA(100, {"age": 9}, {"brand": 9}, hash_bits=32).search.num_bits
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
    >>> SDIM(100, {}, {}, hash_rounds=8).exact_search_unit.num_rounds
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
    >>> TWIN(100, {"age": 9}, {"brand": 9}, k=20).search.k
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
    >>> MISS(100, {"age": 9}, {"brand": 9}, k=20).search.k
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
    >>> model = MUSE(100, {"age": 9}, {"brand": 9, "price": 5}, ["brand"])
    >>> inputs = {
    ...     "user_features": np.array([[2]], "int32"),
    ...     "behavior_rows": np.array([[3, 4, 5]], "int32"),
    ...     "behavior_features": np.array([[[1], [2], [1]]], "int32"),
    ...     "behavior_mask": np.array([[True, True, True]]),
    ...     "candidate_rows": np.array([[4, 7]], "int32"),
    ...     "candidate_features": np.array([[[2, 1], [3, 4]]], "int32"),
    ... }
    >>> tuple(model(inputs).shape)
    (1, 2)
    """

    own_gsu = "scl_cosine"
    own_esu = "sa_ta_simtier"
