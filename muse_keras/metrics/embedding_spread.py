"""Spread of embeddings, to see whether they collapse."""

from typing import Any

import keras
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import check_inputs, integer
from muse_keras._ops.shapes import has_content


@muse_keras_export()
class EmbeddingSpread(keras.metrics.Metric):
    """Mean cosine of all pairs, and the variance of each dimension.

    Vectors that collapse into one point have a mean cosine near 1; those that
    no longer use some dimension have a variance near 0 there. Unit vectors
    spread evenly have a mean cosine near 0 and a variance of `1 / dim` in
    each dimension.

    Sums are kept, never quotients: the result is exact over all vectors since
    the last reset (all pairs of them, not those of one batch), and replicas
    of a distribution strategy add up. Zero vectors are not counted.

    Args:
        dim: int, width of a vector.
        name: str.
        dtype: dtype of the sums.

    Call arguments:
        vectors: float (B, dim), unit or zero vectors.

    Result:
        dict of float: `mean_pairwise_cosine`, `min_dimension_variance`,
        `mean_dimension_variance`.

    Example:
    >>> import numpy as np
    >>> from muse_keras.metrics import EmbeddingSpread
    >>> spread = EmbeddingSpread(dim=2)
    >>> spread.update_state(np.array([[1, 0], [-1, 0], [1, 0]], "float32"))
    >>> {name: round(float(x), 3) for name, x in spread.result().items()}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'mean_pairwise_cosine': -0.333, 'min_dimension_variance': 0.0,
     'mean_dimension_variance': 0.444}
    """

    def __init__(
        self, dim: int, name: str = "embedding_spread", dtype: Any = None
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.dim = dim = integer("dim", dim)
        self.total = self.add_variable((dim,), "zeros", name="total")
        self.squares = self.add_variable((dim,), "zeros", name="squares")
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, vectors: Any) -> None:
        """Add vectors; see the class."""
        vectors = ops.convert_to_tensor(vectors)
        check_inputs(dim=((self.dim,), "D"), vectors=(vectors, "BD", "floats"))
        vectors = ops.stop_gradient(ops.cast(vectors, self.dtype))
        real = ops.cast(has_content(vectors), self.dtype)
        self.total.assign_add(ops.sum(vectors, axis=0))
        self.squares.assign_add(ops.sum(vectors * vectors, axis=0))
        self.count.assign_add(ops.sum(real))

    def result(self) -> dict[str, Any]:
        """Return the measures; see the class. 0 for fewer than two vectors."""
        count = ops.convert_to_tensor(self.count)
        safe = ops.maximum(count, 1.0)
        mean = self.total / safe
        variance = ops.maximum(self.squares / safe - mean * mean, 0.0)
        # The sum of all cosines, less those of vectors with themselves.
        pairs = ops.sum(self.total * self.total) - ops.sum(self.squares)
        return {
            "mean_pairwise_cosine": ops.divide_no_nan(
                pairs, count * (count - 1.0)
            ),
            "min_dimension_variance": ops.min(variance),
            "mean_dimension_variance": ops.mean(variance),
        }

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "dim": self.dim}
