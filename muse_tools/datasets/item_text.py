"""Item vectors from item text, a stand-in for a trained content tower.

Character n-grams of every field are hashed, weighted by rarity and reduced to
128 dimensions by a truncated singular value decomposition. Items with the same
text get the same vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from muse_tools.datasets.raw_tables import EMBEDDING_DIM

SCALE = 127
_NGRAM_RANGE = (2, 4)
_NUM_FEATURES = 1 << 15


def quantize(vectors: npt.ArrayLike) -> npt.NDArray[np.int8]:
    """Returns int8 codes of unit vectors, as in the published tables."""
    clipped = np.clip(np.asarray(vectors, np.float64), -1.0, 1.0)
    return np.trunc(SCALE * clipped).astype(np.int8)


def text_vectors(
    fields: Mapping[str, Sequence[str | None]],
    weights: Mapping[str, float],
    seed: int,
) -> npt.NDArray[np.float32]:
    """Returns unit vectors, float32 (N, 128); each field has N texts."""
    from sklearn.feature_extraction.text import TfidfTransformer

    # Fields have few distinct values and combinations: texts are processed
    # once per value and decomposed once per combination.
    codes = []
    blocks = []
    for name, texts in fields.items():
        values, code = _distinct([t or "" for t in texts])
        tfidf = TfidfTransformer(sublinear_tf=True)
        block = tfidf.fit_transform(_hasher().transform(values))
        blocks.append(block.multiply(weights[name]).tocsr())
        codes.append(code)
    rows, row_of_item = np.unique(
        np.stack(codes, axis=1), axis=0, return_inverse=True
    )
    matrix = blocks[0][rows[:, 0]]
    for i in range(1, len(blocks)):
        matrix = matrix + blocks[i][rows[:, i]]
    matrix = _of_length_1(matrix)
    vectors = _projected(matrix, _components(matrix, seed))
    return vectors[row_of_item.reshape(-1)]


class TextProjection:
    """`text_vectors` of one field, learned from some texts, for any texts.

    Args:
        texts: the texts to learn from.
        seed: as of `text_vectors`.
    """

    def __init__(self, texts: Sequence[str], seed: int) -> None:
        from sklearn.feature_extraction.text import TfidfTransformer

        values, _ = _distinct(texts)
        counts = _hasher().transform(values)
        self._tfidf = TfidfTransformer(sublinear_tf=True).fit(counts)
        matrix = _of_length_1(self._tfidf.transform(counts))
        self._components = _components(matrix, seed)

    def vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Returns unit vectors, float32 (N, 128), of N texts."""
        values, code = _distinct(texts)
        counts = _hasher().transform(values)
        matrix = _of_length_1(self._tfidf.transform(counts))
        return _projected(matrix, self._components)[code]


def _distinct(
    texts: Sequence[str],
) -> tuple[list[str], npt.NDArray[np.intp]]:
    values, code = np.unique(np.asarray(texts, np.str_), return_inverse=True)
    return values.tolist(), code.reshape(-1)


def _hasher() -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(
        analyzer="char_wb",
        ngram_range=_NGRAM_RANGE,
        n_features=_NUM_FEATURES,
        alternate_sign=False,
        norm=None,
        dtype=np.float32,
    )


def _of_length_1(matrix: Any) -> Any:
    import scipy.sparse
    from sklearn.preprocessing import normalize

    return scipy.sparse.csr_matrix(normalize(matrix.tocsr()), dtype=np.float32)


def _components(matrix: Any, seed: int) -> npt.NDArray[np.float32]:
    """Returns the directions of a decomposition, (at most 128, features)."""
    from sklearn.decomposition import TruncatedSVD

    rank = min(EMBEDDING_DIM, min(matrix.shape) - 1)
    svd = TruncatedSVD(rank, n_iter=4, random_state=seed).fit(matrix)
    return np.asarray(svd.components_)


def _projected(
    matrix: Any, components: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    from sklearn.preprocessing import normalize

    vectors = np.zeros((matrix.shape[0], EMBEDDING_DIM), np.float32)
    vectors[:, : len(components)] = normalize(matrix @ components.T)
    return vectors
