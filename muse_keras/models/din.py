"""DIN: the newest behaviors only."""

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
