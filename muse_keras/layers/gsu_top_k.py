"""GSU: the behaviors most similar to each candidate."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.blocks import search_in_blocks
from muse_keras._ops.checks import check_inputs, integer
from muse_keras._ops.cosine import CosineParts, cosine_matrix, cosine_parts
from muse_keras._ops.docstrings import attributes_of
from muse_keras._ops.top_k import stable_top_k

# Below every cosine: masked positions sort last.
_MASKED = -4.0
_MASKED_LIMIT = -2.0


class GSUResult(NamedTuple):
    """The behaviors that a search found for every candidate.

    Attributes:
        similarities: float32 (B, C, K), descending from a `GSUTopK`; 0 where
            masked.
        indices: int32 (B, C, K), positions in the history; 0 where masked.
        mask: bool (B, C, K), True = found.
    """

    similarities: Any
    indices: Any
    mask: Any


@muse_keras_export()
class GSUTopK(keras.layers.Layer):
    """The K behaviors with the highest cosine to each candidate.

    A plain cosine over frozen multimodal vectors retrieves better than
    learned scores do, and needs no training. The search is exact. Vectors
    need no normalization: int8 codes are searched as they are, and their
    scalar products are exact.

    Order: descending similarity; of equal ones the smaller index first, on
    every backend. Equal codes are equally similar. On TensorFlow codes are
    ordered by their float64 cosines and long histories are searched in
    blocks (`muse_keras.tensorflow.code_search`); elsewhere, and for float
    vectors, by cosines within two units of float32. A zero
    vector, or one with NaN or infinity, means "no embedding": it is never
    found, and as a candidate finds nothing (its `mask` is False and its
    similarities are 0). No gradient flows through the search.

    Reference: MUSE, arXiv 2512.07216, section on the GSU.

    Args:
        k: int, behaviors kept for each candidate.
        block_size: int, the most scores (candidates x behaviors x batch)
            computed at once, 4 bytes each; candidates are searched in blocks
            of this size, at least one candidate at a time.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        candidates: (B, C, D) or (B, D), int8 codes or floats.
        behaviors: (B, L, D), int8 codes or floats.
        behavior_mask: bool (B, L), True = real. None: all are real. Padding
            is never found.
        behavior_inverse_norms: float32 (B, L), 1 / norm of int8 codes, 0 for
            zero codes, as `MultimodalEmbeddingTable.inverse_norms_of` gives
            them. None: computed from the codes, which takes about as long as
            the search for one candidate. Used on TensorFlow only.

    Input shape:
        `(B, C, D)` and `(B, L, D)`

    Output shape:
        `GSUResult` of three tensors `(B, C, K)`, or `(B, K)` for candidates
        of rank 2. With L < K the rest is masked.

    Example:
    >>> import numpy as np
    >>> from muse_keras.layers import GSUTopK
    >>> history = np.array([[[0, 9], [7, 0], [5, 5]]], "int8")
    >>> result = GSUTopK(k=2)(np.array([[[3, 0]]], "int8"), history)
    >>> np.asarray(result.indices)
    array([[[1, 2]]], dtype=int32)
    """

    def __init__(
        self, k: int = 50, block_size: int = 1 << 25, **kwargs: Any
    ) -> None:
        # Similarities stay float32 under every dtype policy.
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self.k = integer("k", k)
        self.block_size = integer("block_size", block_size)
        self.supports_masking = False

    def build(self, input_shape: Any = None) -> None:
        """Make no weights: the layer has none."""
        self.built = True

    def call(
        self,
        candidates: Any,
        behaviors: Any,
        behavior_mask: Any = None,
        behavior_inverse_norms: Any = None,
    ) -> GSUResult:
        """Search; see the class."""
        self._check(
            candidates, behaviors, behavior_mask, behavior_inverse_norms
        )
        single = len(candidates.shape) == 2
        if single:
            candidates = ops.expand_dims(candidates, 1)
        if _are_codes(candidates, behaviors):
            values, positions = self._search_codes(
                candidates, behaviors, behavior_mask, behavior_inverse_norms
            )
        else:
            behavior_parts, penalty = self._prepare(behaviors, behavior_mask)
            candidate_parts = cosine_parts(ops.stop_gradient(candidates))
            values, positions = self._search(
                candidate_parts, behavior_parts, penalty
            )
        if single:
            # Not `squeeze`: the axis may not be known to be 1 here.
            values, positions = values[:, 0], positions[:, 0]
        found = values > _MASKED_LIMIT
        zeros = ops.zeros_like(values)
        return GSUResult(
            ops.where(found, values, zeros),
            ops.cast(ops.where(found, positions, zeros), "int32"),
            found,
        )

    def compute_output_spec(
        self,
        candidates: Any,
        behaviors: Any,
        behavior_mask: Any = None,
        behavior_inverse_norms: Any = None,
    ) -> GSUResult:
        """Return the shapes and dtypes of `call`'s result."""
        self._check(
            candidates, behaviors, behavior_mask, behavior_inverse_norms
        )
        shape = (*tuple(candidates.shape)[:-1], self.k)
        return GSUResult(
            keras.KerasTensor(shape, "float32"),
            keras.KerasTensor(shape, "int32"),
            keras.KerasTensor(shape, "bool"),
        )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), **attributes_of(self)}

    def _check(
        self, candidates: Any, behaviors: Any, mask: Any, norms: Any
    ) -> None:
        check_inputs(
            candidates=(candidates, "BCD BD", "vectors"),
            behaviors=(behaviors, "BLD", "vectors"),
            behavior_mask=(mask, "BL"),
            behavior_inverse_norms=(norms, "BL", "floats"),
        )

    def _search_codes(
        self, candidates: Any, behaviors: Any, mask: Any, norms: Any
    ) -> tuple[Any, Any]:
        """Return top-K scores and positions of codes, on TensorFlow."""
        from muse_keras.tensorflow import code_search

        if norms is None:
            squares = code_search.squared_norms(behaviors)
        else:
            squares = code_search.squares_of_inverse_norms(norms)
        if mask is not None:
            real = ops.cast(mask, "bool")
            squares = ops.where(real, squares, ops.zeros_like(squares))
        cosines, positions = code_search.search_codes(
            candidates, behaviors, squares, self.k, self.block_size
        )
        return ops.cast(cosines, "float32"), ops.cast(positions, "float32")

    def _prepare(self, behaviors: Any, mask: Any) -> tuple[CosineParts, Any]:
        """Return at least K behaviors, and the penalties of masked ones."""
        behaviors = ops.stop_gradient(behaviors)
        parts = cosine_parts(behaviors)
        real = parts.valid
        if mask is not None:
            real = ops.logical_and(real, ops.cast(mask, "bool"))
        penalty = _penalty(real)
        length = behaviors.shape[1]
        if isinstance(length, int) and length >= self.k:
            return parts, penalty
        missing = self.k - length if isinstance(length, int) else self.k
        batch = ops.shape(behaviors)[0]
        dim = ops.shape(behaviors)[2]

        def pad(tensor: Any, value: float, *width: Any) -> Any:
            block = ops.full((batch, missing, *width), value, dtype="float32")
            return ops.concatenate([tensor, block], axis=1)

        parts = CosineParts(
            pad(parts.vectors, 0.0, dim),
            pad(parts.norms, 1.0),
            None,
        )
        return parts, pad(penalty, _MASKED)

    def _search(
        self, candidates: CosineParts, behaviors: CosineParts, penalty: Any
    ) -> tuple[Any, Any]:
        """Return top-K scores and positions, both float32 (B, C, K)."""
        penalty = ops.expand_dims(penalty, 1)

        def search_block(block: Sequence[Any]) -> tuple[Any, Any]:
            vectors, norms, penalties = block
            scores = cosine_matrix(CosineParts(vectors, norms, None), behaviors)
            # x + 0 is x: real positions keep their exact values.
            scores = scores + penalty + ops.expand_dims(penalties, 2)
            values, indices = stable_top_k(scores, self.k)
            # Positions travel as float32 (exact below 2**24): TensorFlow
            # reshapes int32 on the host.
            return values, ops.cast(indices, "float32")

        columns = (
            candidates.vectors,
            candidates.norms,
            _penalty(candidates.valid),
        )
        return search_in_blocks(
            search_block,
            columns,
            (0.0, 1.0, 0.0),
            ops.shape(behaviors.vectors)[1],
            self.k,
            self.block_size,
        )


def _are_codes(candidates: Any, behaviors: Any) -> bool:
    """Tell whether TensorFlow's search of int8 codes applies."""
    return keras.backend.backend() == "tensorflow" and all(
        keras.backend.standardize_dtype(vectors.dtype) == "int8"
        for vectors in (candidates, behaviors)
    )


def _penalty(real: Any) -> Any:
    """Return float32 0 where `real`, else a penalty that sorts last."""
    return (1.0 - ops.cast(real, "float32")) * _MASKED
