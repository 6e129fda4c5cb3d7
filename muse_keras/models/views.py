"""Views of candidates, behaviors and what a search found.

A field is a tensor, or a function that makes it when it is first read. A field
that is not read is not computed and is not in the graph. Read a field outside
of loops and branches (`tf.cond`, `ops.map`), since its value is kept.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from muse_keras._ops.cosine import cosines_of_found
from muse_keras._ops.positions import take_positions, take_vectors_at


class _Field:
    """An attribute given as a value or as a function called once."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __set__(self, view: Any, value: Any) -> None:
        view.__dict__[self._name] = value

    def __get__(self, view: Any, owner: type | None = None) -> Any:
        if view is None:
            return self
        value = view.__dict__[self._name]
        if value is None:
            raise ValueError(
                f"`{self._name}` is read from a {type(view).__name__} that "
                "was made without it. Give it to the constructor."
            )
        if callable(value):
            value = value()
        if isinstance(value, np.ndarray):
            value = ops.convert_to_tensor(value)
        view.__dict__[self._name] = value
        return value


class CandidateView:
    """The candidates of a batch of requests.

    Each argument is an attribute: a tensor, an array, or a function without
    arguments that makes one at the first reading.

    Args:
        rows: int32 (B, C), rows of the item table; 0 = unknown item.
        categories: int32 (B, C), vocabulary indices.
        vectors: int8 (B, C, D), multimodal codes.
        embeddings: float (B, C, E), trained id and category embeddings.
        mask: bool (B, C), True = real. None: all are.
        queries: float (B, C, D'), queries of the exact search unit's
            attention.

    Example:
    >>> import numpy as np
    >>> from muse_keras.models import CandidateView
    >>> rows = np.array([[4, 7]], "int32")
    >>> view = CandidateView(rows, rows, lambda: np.ones((1, 2, 8), "int8"))
    >>> tuple(view.vectors.shape)
    (1, 2, 8)
    """

    rows = _Field()
    categories = _Field()
    vectors = _Field()
    embeddings = _Field()
    queries = _Field()

    def __init__(
        self,
        rows: Any,
        categories: Any,
        vectors: Any = None,
        embeddings: Any = None,
        mask: Any = None,
        queries: Any = None,
    ) -> None:
        self.rows = rows
        self.categories = categories
        self.vectors = vectors
        self.embeddings = embeddings
        self.mask = mask
        self.queries = queries


class BehaviorView:
    """The histories of a batch of requests, oldest first.

    Each of the first seven arguments is an attribute: a tensor, an array, or
    a function without arguments that makes one at the first reading.

    Args:
        rows: int32 (B, L), rows of the item table; 0 = unknown item.
        categories: int32 (B, L), vocabulary indices.
        mask: bool (B, L), True = real.
        vectors: int8 (B, L, D), multimodal codes.
        embeddings: float (B, L, E), trained id and category embeddings.
        inverse_norms: float32 (B, L), 1 / norm of the codes, 0 where there
            is no vector.
        keys: float (B, L, D'), keys of the exact search unit's attention.
        vectors_of: function of rows to their codes, or None. With it, codes
            of a few positions are read without those of the whole history.
        embeddings_of: the same, of rows and categories to embeddings.

    Example:
    >>> import numpy as np
    >>> from muse_keras.models import BehaviorView
    >>> rows = np.array([[4, 7, 0]], "int32")
    >>> codes = np.ones((1, 3, 8), "int8")
    >>> view = BehaviorView(rows, rows, rows > 0, vectors=codes)
    >>> tuple(view.at(np.array([[[1, 0]]], "int32")).vectors.shape)
    (1, 1, 2, 8)
    """

    rows = _Field()
    categories = _Field()
    mask = _Field()
    vectors = _Field()
    embeddings = _Field()
    inverse_norms = _Field()
    keys = _Field()

    def __init__(
        self,
        rows: Any,
        categories: Any,
        mask: Any,
        vectors: Any = None,
        embeddings: Any = None,
        inverse_norms: Any = None,
        keys: Any = None,
        vectors_of: Callable[[Any], Any] | None = None,
        embeddings_of: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self.rows = rows
        self.categories = categories
        self.mask = mask
        self.inverse_norms = inverse_norms
        self.keys = keys
        self._vectors_of = vectors_of
        self._embeddings_of = embeddings_of
        if vectors is None and vectors_of is not None:
            vectors = lambda: vectors_of(self.rows)  # noqa: E731
        if embeddings is None and embeddings_of is not None:
            embeddings = lambda: embeddings_of(  # noqa: E731
                self.rows, self.categories
            )
        self.vectors = vectors
        self.embeddings = embeddings

    def at(self, indices: Any) -> "BehaviorView":
        """Return the behaviors at some positions, without a mask.

        Args:
            indices: int32 (B, ...), positions in L; 0 if L is 0.

        Returns:
            `BehaviorView` of (B, ...) with rows, categories, vectors and
            embeddings.
        """
        by_rows, by_both = self._vectors_of, self._embeddings_of
        return BehaviorView(
            lambda: take_positions(self.rows, indices),
            lambda: take_positions(self.categories, indices),
            None,
            None if by_rows else lambda: take_vectors_at(self.vectors, indices),
            None
            if by_both
            else lambda: take_vectors_at(self.embeddings, indices),
            vectors_of=by_rows,
            embeddings_of=by_both,
        )


class FoundBehaviors:
    """The behaviors that a search found for every candidate.

    Each argument is an attribute: a tensor, an array, or a function without
    arguments that makes one at the first reading.

    Args:
        indices: int32 (B, C, K), positions in the history; 0 where masked.
        mask: bool (B, C, K), True = found.
        similarities: float32 (B, C, K), multimodal cosines in the order of
            the search; 0 where masked and for an item without a vector.
        embeddings: float (B, C, K, E), trained id and category embeddings.

    Example:
    >>> import numpy as np
    >>> from muse_keras.models import FoundBehaviors
    >>> mask = np.array([[[True, False]]])
    >>> found = FoundBehaviors(mask.astype("int32"), mask)
    >>> tuple(found.mask.shape)
    (1, 1, 2)
    """

    indices = _Field()
    mask = _Field()
    similarities = _Field()
    embeddings = _Field()

    def __init__(
        self,
        indices: Any,
        mask: Any,
        similarities: Any = None,
        embeddings: Any = None,
    ) -> None:
        self.indices = indices
        self.mask = mask
        self.similarities = similarities
        self.embeddings = embeddings

    @classmethod
    def at(
        cls,
        candidates: CandidateView,
        behaviors: BehaviorView,
        indices: Any,
        mask: Any,
        similarities: Any = None,
    ) -> "FoundBehaviors":
        """Return positions with what the views know of them.

        Args:
            candidates: `CandidateView`.
            behaviors: `BehaviorView`.
            indices: int32 (B, C, K), 0 where masked.
            mask: bool (B, C, K).
            similarities: float32 (B, C, K). None: cosines of the views'
                codes, computed when they are read.
        """
        there = behaviors.at(indices)

        def cosines() -> Any:
            found = cosines_of_found(candidates.vectors, there.vectors)
            return ops.where(mask, found, ops.zeros_like(found))

        return cls(
            indices,
            mask,
            cosines if similarities is None else similarities,
            lambda: there.embeddings,
        )

    @classmethod
    def by(cls, search: Callable[[], "FoundBehaviors"]) -> "FoundBehaviors":
        """Return what a search finds, searching when a field is read."""
        found = functools.cache(search)
        return cls(
            lambda: found().indices,
            lambda: found().mask,
            lambda: found().similarities,
            lambda: found().embeddings,
        )
