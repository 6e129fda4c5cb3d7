"""Views of candidates, behaviors and what a search found.

A field is a tensor, or a function that makes it when it is first read. A field
that is not read is not computed and is not in the graph. Read a field outside
of loops and branches (`tf.cond`, `ops.map`), since its value is kept.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from keras import ops

from muse_keras._ops.cosine import cosines_of_found
from muse_keras._ops.positions import take_positions, take_vectors_at


class _Field:
    """An attribute given as a value or as a function called once."""

    def __init__(self, is_needed: bool = False) -> None:
        self._is_needed = is_needed

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __set__(self, view: Any, value: Any) -> None:
        view.__dict__[self._name] = value

    def __get__(self, view: Any, owner: type | None = None) -> Any:
        if view is None:  # A dataclass asks for its default.
            if self._is_needed:
                raise AttributeError(self._name)
            return None
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
        if isinstance(value, Mapping):
            value = {k: ops.convert_to_tensor(v) for k, v in value.items()}
        view.__dict__[self._name] = value
        return value


@dataclasses.dataclass(eq=False, repr=False)
class CandidateView:
    """The candidates of a batch of requests.

    Each argument is an attribute: a tensor, an array, or a function without
    arguments that makes one at the first reading.

    Args:
        rows: int32 (B, C), rows of the item table; 0 = unknown item.
        vectors: int8 (B, C, D), multimodal codes.
        embeddings: float (B, C, E), trained embeddings of ids and of what
            behaviors have too.
        mask: bool (B, C), True = real. None: all are.
        queries: float (B, C, D'), queries of the exact search unit's
            attention.
        features: mapping of names of features to vocabulary indices, integer
            (B, C), or (B, C, V) of a feature of V values.

    Example:
    >>> import numpy as np
    >>> from muse_keras.models import CandidateView
    >>> rows = np.array([[4, 7]], "int32")
    >>> view = CandidateView(rows, lambda: np.ones((1, 2, 8), "int8"))
    >>> tuple(view.vectors.shape)
    (1, 2, 8)
    """

    rows: Any = _Field(is_needed=True)
    vectors: Any = _Field()
    embeddings: Any = _Field()
    mask: Any = None
    queries: Any = _Field()
    features: Any = _Field()


@dataclasses.dataclass(eq=False, repr=False)
class BehaviorView:
    """The histories of a batch of requests, oldest first.

    Each of the first seven arguments is an attribute: a tensor, an array, or
    a function without arguments that makes one at the first reading.

    Args:
        rows: int32 (B, L), rows of the item table; 0 = unknown item.
        mask: bool (B, L), True = real.
        vectors: int8 (B, L, D), multimodal codes.
        embeddings: float (B, L, E), trained embeddings of ids and features,
            with those of behaviors' own features added.
        inverse_norms: float32 (B, L), 1 / norm of the codes, 0 where there
            is no vector.
        keys: float (B, L, D'), keys of the exact search unit's attention.
        features: mapping of names of features to vocabulary indices, integer
            (B, L), or (B, L, V) of a feature of V values.
        vectors_of: function of rows to their codes, or None. With it, codes
            of a few positions are read without those of the whole history.
        embeddings_of: the same, of rows and features to embeddings.

    Example:
    >>> import numpy as np
    >>> from muse_keras.models import BehaviorView
    >>> rows = np.array([[4, 7, 0]], "int32")
    >>> codes = np.ones((1, 3, 8), "int8")
    >>> view = BehaviorView(rows, rows > 0, vectors=codes)
    >>> tuple(view.at(np.array([[[1, 0]]], "int32")).vectors.shape)
    (1, 1, 2, 8)
    """

    rows: Any = _Field(is_needed=True)
    mask: Any = _Field(is_needed=True)
    vectors: Any = _Field()
    embeddings: Any = _Field()
    inverse_norms: Any = _Field()
    keys: Any = _Field()
    features: Any = _Field()
    vectors_of: Any = None
    embeddings_of: Any = None

    def __post_init__(self) -> None:
        given, by_rows, by_both = (
            vars(self),
            self.vectors_of,
            self.embeddings_of,
        )
        if given["vectors"] is None and by_rows:
            self.vectors = lambda: by_rows(self.rows)
        if given["embeddings"] is None and by_both:
            self.embeddings = lambda: by_both(self.rows, self.features)

    def at(self, indices: Any) -> "BehaviorView":
        """Return the behaviors at some positions, without a mask.

        Args:
            indices: int32 (B, ...), positions in L; 0 if L is 0.

        Returns:
            `BehaviorView` of (B, ...) with rows, features, vectors and
            embeddings.
        """
        by_rows, by_both = self.vectors_of, self.embeddings_of
        return BehaviorView(
            lambda: take_positions(self.rows, indices),
            None,
            None if by_rows else lambda: take_vectors_at(self.vectors, indices),
            None
            if by_both
            else lambda: take_vectors_at(self.embeddings, indices),
            features=lambda: {
                name: take_positions(values, indices)
                for name, values in self.features.items()
            },
            vectors_of=by_rows,
            embeddings_of=by_both,
        )


@dataclasses.dataclass(eq=False, repr=False)
class FoundBehaviors:
    """The behaviors that a search found for every candidate.

    Each argument is an attribute: a tensor, an array, or a function without
    arguments that makes one at the first reading.

    Args:
        indices: int32 (B, C, K), positions in the history; 0 where masked.
        mask: bool (B, C, K), True = found.
        similarities: float32 (B, C, K), multimodal cosines in the order of
            the search; 0 where masked and for an item without a vector.
        embeddings: float (B, C, K, E), trained embeddings.
        same_item: bool (B, C, K), whether the behavior has the candidate's
            row, and this is not 0.
        ages: float32 (B, C, K), how many positions of the history are newer,
            from its last real one on.

    Example:
    >>> import numpy as np
    >>> from muse_keras.models import FoundBehaviors
    >>> mask = np.array([[[True, False]]])
    >>> found = FoundBehaviors(mask.astype("int32"), mask)
    >>> tuple(found.mask.shape)
    (1, 1, 2)
    """

    indices: Any = _Field(is_needed=True)
    mask: Any = _Field(is_needed=True)
    similarities: Any = _Field()
    embeddings: Any = _Field()
    same_item: Any = _Field()
    ages: Any = _Field()

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

        def same_item() -> Any:
            # int64: TensorFlow keeps int32 arithmetic on the host.
            rows = ops.cast(there.rows, "int64")
            wanted = ops.expand_dims(ops.cast(candidates.rows, "int64"), 2)
            return ops.logical_and(rows == wanted, rows > 0)

        def ages() -> Any:
            length = ops.shape(behaviors.mask)[1]
            places = ops.arange(length, dtype="float32") * ops.cast(
                behaviors.mask, "float32"
            )
            last = ops.max(ops.pad(places, [[0, 0], [0, 1]]), axis=1)
            found = ops.cast(indices, "float32")
            return ops.maximum(ops.reshape(last, (-1, 1, 1)) - found, 0.0)

        return cls(
            indices,
            mask,
            cosines if similarities is None else similarities,
            lambda: there.embeddings,
            same_item,
            ages,
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
            lambda: found().same_item,
            lambda: found().ages,
        )
