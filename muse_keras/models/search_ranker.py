"""A ranker whose long-term part is any search with any exact search unit."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import integer, number
from muse_keras._ops.feature_columns import Size
from muse_keras.models.base_ranker import BaseRanker
from muse_keras.models.behavior_search import BehaviorSearch, CosineSearch
from muse_keras.models.category_search import CategorySearch
from muse_keras.models.combined_exact_search_unit import (
    CombinedExactSearchUnit,
    SemanticExactSearchUnit,
)
from muse_keras.models.dual_search import DualSearch
from muse_keras.models.exact_search_unit import ExactSearchUnit
from muse_keras.models.full_attention_unit import FullAttentionUnit
from muse_keras.models.hash_sampling_unit import HashSamplingUnit
from muse_keras.models.id_cosine_search import IdCosineSearch
from muse_keras.models.newest_search import NewestSearch
from muse_keras.models.sim_hash_search import SimHashSearch
from muse_keras.models.target_attention_search import TargetAttentionSearch

_SEARCHES: dict[str, Callable[..., BehaviorSearch]] = {
    "none": NewestSearch,
    "category": CategorySearch,
    "id_cosine": IdCosineSearch,
    "scl_cosine": CosineSearch,
    "target_attention": TargetAttentionSearch,
    "simhash": SimHashSearch,
    "dual": DualSearch,
}
# The attention, and whether SimTier and the identity signal are added.
_COMBINATIONS: dict[str, tuple[str | None, bool, bool]] = {
    "ta": ("ta", False, False),
    "simtier": (None, True, False),
    "simtier_identity": (None, True, True),
    "ta_simtier": ("ta", True, False),
    "sa_ta": ("sa_ta", False, False),
    "sa_ta_simtier": ("sa_ta", True, False),
    "sa_ta_simtier_identity": ("sa_ta", True, True),
}

GSUS = tuple(_SEARCHES)
ESUS = (*_COMBINATIONS, "full_ta", "sdim")


@muse_keras_export()
class SearchRanker(BaseRanker):
    """A ranker with a search (GSU) and an exact search unit (ESU) by name.

    | `gsu` | behaviors found for a candidate |
    |---|---|
    | `none` | the newest |
    | `category` | with its value of the first of `matches`, newest first |
    | `id_cosine` | by cosine of trained embeddings (SIM, soft) |
    | `scl_cosine` | by cosine of multimodal vectors (MUSE) |
    | `target_attention` | by the logits of the ESU's attention (TWIN) |
    | `simhash` | by Hamming distance of trained embeddings (ETA) |
    | `dual` | half as `id_cosine`, half as `scl_cosine` (MISS) |

    | `esu` | what is modeled |
    |---|---|
    | `ta` | target attention over id embeddings |
    | `simtier` | histogram of multimodal similarities |
    | `simtier_identity` | that and an `IdentitySignal` |
    | `ta_simtier` | `ta` and `simtier` |
    | `sa_ta` | attention guided by similarities |
    | `sa_ta_simtier` | that and the histogram (MUSE) |
    | `sa_ta_simtier_identity` | those and an `IdentitySignal` |
    | `full_ta` | target attention over the whole history |
    | `sdim` | samples of the whole history by hashes (SDIM) |

    Everything else (embeddings, short-term part, tower, data) is the same
    for all. The presets `MUSE`, `SIMHard`, `SIMSoft`, `ETA`, `SDIM`, `TWIN`,
    `MISS`, `DIN` and `FullDIN` differ in `own_gsu` and `own_esu` alone.

    Reference: the comparison in MUSE, arXiv 2512.07216.

    Args:
        k: int, behaviors retrieved for each candidate.
        similarity_scale: float, where the learned factor on similarities in
            SA-TA starts, or None.
        gsu: str, the search. None: the class's own.
        esu: str, the exact search unit. None: the class's own.
        hash_bits: int, bits of the hashes of `simhash`.
        hash_rounds: int, rounds of `sdim`, of 3 bits each.

    Example:
    >>> from muse_keras.models import SearchRanker
    >>> model = SearchRanker(
    ...     100, {"age": 9}, {"category": 9}, gsu="simhash", esu="ta"
    ... )
    >>> type(model.search).__name__
    'SimHashSearch'
    """

    own_gsu: str | None = "scl_cosine"
    own_esu: str | None = "sa_ta_simtier"

    def __init__(
        self,
        num_items: int,
        user_sizes: Mapping[str, Size],
        item_sizes: Mapping[str, Size],
        behavior_features: Sequence[str] = (),
        matches: Sequence[str] = (),
        k: int = 50,
        similarity_scale: float | None = 10.0,
        gsu: str | None = None,
        esu: str | None = None,
        hash_bits: int = 64,
        hash_rounds: int = 16,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_items,
            user_sizes,
            item_sizes,
            behavior_features,
            matches,
            **kwargs,
        )
        for name, value, choices in (("gsu", gsu, GSUS), ("esu", esu, ESUS)):
            if value is not None and value not in choices:
                raise ValueError(
                    f"`{name}` must be one of {choices}, or None for "
                    f"{type(self).__name__}'s own. Received: {name}={value!r}"
                )
        self.k = integer("k", k)
        if similarity_scale is not None:
            similarity_scale = number("similarity_scale", similarity_scale)
        self.similarity_scale = similarity_scale
        self.gsu = gsu
        self.esu = esu
        self.hash_bits = integer("hash_bits", hash_bits)
        self.hash_rounds = integer("hash_rounds", hash_rounds)
        self.assemble()

    def make_search(self) -> BehaviorSearch | None:
        """Return the search that `gsu` names."""
        name = self._names()[0]
        if name is None:
            return None
        options: dict[str, Any] = {"k": self.k, "name": "search"}
        if name == "simhash":
            options |= {
                "dim": self.target_dim,
                "num_bits": self.hash_bits,
                "seed": self.seed,
            }
        if name == "category":
            if not self.matches:
                raise ValueError(
                    '`gsu` "category" searches by the first of `matches`: '
                    "give one, or another `gsu`. Received: matches=()"
                )
            if isinstance(self.item_sizes[self.matches[0]], tuple):
                raise ValueError(
                    '`gsu` "category" searches by the first of `matches`, '
                    "which must have one value at once: give another one "
                    f"first, or another `gsu`. Received: {self.matches[0]!r} "
                    f"of {self.item_sizes[self.matches[0]]}"
                )
            options["feature"] = self.matches[0]
        return _SEARCHES[name](**options)

    def make_exact_search_unit(self) -> ExactSearchUnit | None:
        """Return the exact search unit that `esu` names."""
        name = self._names()[1]
        if name is None:
            return None
        options: dict[str, Any] = {
            "num_tiers": self.num_tiers,
            "dtype": self.dtype_policy,
            "name": "exact_search_unit",
        }
        if name == "sdim":
            return HashSamplingUnit(
                num_rounds=self.hash_rounds, seed=self.seed, **options
            )
        options |= {
            "num_heads": self.num_heads,
            "activation": self.attention_activation,
        }
        if name == "full_ta":
            return FullAttentionUnit(**options)
        options |= {
            "similarity_scale": self.similarity_scale,
            "tier_scale": self.tier_scale,
        }
        if name == "sa_ta_simtier":
            return SemanticExactSearchUnit(**options)
        attention, with_tiers, identity = _COMBINATIONS[name]
        return CombinedExactSearchUnit(
            attention=attention,
            with_tiers=with_tiers,
            identity=identity,
            **options,
        )

    def _names(self) -> tuple[str | None, str | None]:
        """Return the names of search and exact search unit, or two None."""
        if self.gsu is None and self.esu is None:
            return self.own_gsu, self.own_esu
        # A class without a long-term part gets the simplest other half.
        return (
            self.gsu or self.own_gsu or "none",
            self.esu or self.own_esu or "ta",
        )
