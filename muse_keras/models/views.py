"""What a search may look at."""

from typing import Any, NamedTuple


class CandidateView(NamedTuple):
    """The candidates of a batch of requests.

    Attributes:
        rows: int32 (B, C), rows of the item table; 0 = unknown item.
        categories: int32 (B, C), vocabulary indices.
        vectors: int8 (B, C, D), multimodal codes, or None if not asked for.
        embeddings: float (B, C, E), trained id and category embeddings, or
            None if not asked for.
        mask: bool (B, C), True = real, or None.
        queries: float (B, C, D'), what the attention of the exact search unit
            asks with, or None if not asked for.
    """

    rows: Any
    categories: Any
    vectors: Any = None
    embeddings: Any = None
    mask: Any = None
    queries: Any = None


class BehaviorView(NamedTuple):
    """The histories of a batch of requests, oldest first.

    Attributes:
        rows: int32 (B, L), rows of the item table; 0 = unknown item.
        categories: int32 (B, L), vocabulary indices.
        mask: bool (B, L), True = real.
        vectors: int8 (B, L, D), multimodal codes, or None if not asked for.
        embeddings: float (B, L, E), trained id and category embeddings, or
            None if not asked for.
        inverse_norms: float32 (B, L), 1 / norm of the codes, 0 where there
            is no vector, or None if vectors are not asked for.
        keys: float (B, L, D'), what `queries` are multiplied with, or None if
            not asked for.
    """

    rows: Any
    categories: Any
    mask: Any
    vectors: Any = None
    embeddings: Any = None
    inverse_norms: Any = None
    keys: Any = None
