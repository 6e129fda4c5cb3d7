"""Item vectors from item text, a stand-in for a trained content tower.

Character n-grams of every field are hashed, weighted by rarity and reduced to
128 dimensions by a truncated singular value decomposition. Items with the same
text get the same vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    import scipy.sparse
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import (
        HashingVectorizer,
        TfidfTransformer,
    )
    from sklearn.preprocessing import normalize

    hasher = HashingVectorizer(
        analyzer="char_wb",
        ngram_range=_NGRAM_RANGE,
        n_features=_NUM_FEATURES,
        alternate_sign=False,
        norm=None,
        dtype=np.float32,
    )
    # Fields have few distinct values and combinations: texts are processed
    # once per value and decomposed once per combination.
    codes = []
    blocks = []
    for name, texts in fields.items():
        values, code = np.unique(
            np.asarray([t or "" for t in texts], np.str_), return_inverse=True
        )
        counts = hasher.transform(values.tolist())
        block = TfidfTransformer(sublinear_tf=True).fit_transform(counts)
        blocks.append(block.multiply(weights[name]).tocsr())
        codes.append(code.reshape(-1))
    rows, row_of_item = np.unique(
        np.stack(codes, axis=1), axis=0, return_inverse=True
    )
    matrix = blocks[0][rows[:, 0]]
    for i in range(1, len(blocks)):
        matrix = matrix + blocks[i][rows[:, i]]
    matrix = normalize(matrix.tocsr())
    matrix = scipy.sparse.csr_matrix(matrix, dtype=np.float32)
    rank = min(EMBEDDING_DIM, min(matrix.shape) - 1)
    svd = TruncatedSVD(rank, n_iter=4, random_state=seed)
    reduced = svd.fit_transform(matrix)
    vectors = np.zeros((len(rows), EMBEDDING_DIM), np.float32)
    vectors[:, :rank] = normalize(reduced)
    return vectors[row_of_item.reshape(-1)]
