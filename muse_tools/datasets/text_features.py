"""Encodes texts as dense vectors: the modality ``text`` of items and queries.

`HashedNgrams` is built in and needs no model. Any other encoder is a function,
named by its import path, that takes a list of strings and returns a matrix.
`sentence_encoder` wraps a sentence-embedding model that is installed on the
machine.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from muse_tools.datasets.arrow_lists import Ints
from muse_tools.datasets.errors import DataError

HASHED_NGRAMS = "hashed_ngrams"
"""Name of the built-in encoder."""

_WORD = re.compile(r"\w+")
_CACHED_WORDS = 1 << 16
_PROBE = ("probe",)
_BLOCK = 4096

Encoder = Callable[[Sequence[str]], npt.NDArray[Any]]
"""A function from N texts to floats (N, width)."""


class HashedNgrams:
    """Hashes words and character n-grams of a text to a unit vector.

    Every word, and every run of two to four characters of a word with its
    borders, is hashed to a dimension and a sign by BLAKE2b, which gives the
    same result in every process and on every machine. A token that occurs c
    times has the weight 1 + log(c). Words and n-grams have the same total
    weight, because each part is scaled to unit length before the two are added.

    Texts are normalized by NFKC and lower case. Words are runs of letters,
    digits and underscores; in scripts without spaces, the n-grams carry the
    meaning.
    """

    def __init__(self, dim: int = 512, seed: int = 0) -> None:
        if dim < 2:
            raise ValueError(f"dim: expected 2 or more. Received: {dim}")
        self.dim = dim
        self.seed = seed
        self._tokens = functools.lru_cache(_CACHED_WORDS)(self._hash_word)

    @property
    def name(self) -> str:
        """Name of the encoder with all parameters of its vectors."""
        return f"{HASHED_NGRAMS}(dim={self.dim}, seed={self.seed})"

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Returns N texts as float32 (N, dim); encodes equal texts once."""
        distinct: dict[str, int] = {}
        row = [distinct.setdefault(text, len(distinct)) for text in texts]
        order = list(distinct)
        vectors = np.zeros((len(order), self.dim), np.float32)
        for begin in range(0, len(order), _BLOCK):
            block = order[begin : begin + _BLOCK]
            vectors[begin : begin + _BLOCK] = self._encode(block)
        return vectors[np.array(row, np.intp)]

    def _encode(self, texts: list[str]) -> npt.NDArray[np.float64]:
        words, grams, rows = [], [], []
        for number, text in enumerate(texts):
            normal = unicodedata.normalize("NFKC", text).lower()
            for word in _WORD.findall(normal):
                tokens = self._tokens(word)
                words.append(tokens[:1])
                grams.append(tokens[1:])
                rows.append(number)
        total = np.zeros((len(texts), self.dim))
        for kind in (words, grams) if rows else ():
            sizes = [len(tokens) for tokens in kind]
            total += self._part(
                np.repeat(np.array(rows), sizes),
                np.concatenate(kind),
                len(texts),
            )
        return self._scale(total)

    def _hash_word(self, word: str) -> npt.NDArray[np.uint64]:
        """Returns the hash of a word, then those of its n-grams."""
        bordered = f" {word} "
        grams = [
            bordered[i : i + size]
            for size in (2, 3, 4)
            for i in range(len(bordered) - size + 1)
        ]
        key = self.seed.to_bytes(8, "little", signed=True)
        digests = [
            hashlib.blake2b(
                token.encode("utf-8", "surrogatepass"), digest_size=8, key=key
            ).digest()
            for token in (f"w{word}", *(f"g{gram}" for gram in grams))
        ]
        return np.frombuffer(b"".join(digests), "<u8")

    def _part(
        self, row: Ints, tokens: npt.NDArray[np.uint64], height: int
    ) -> npt.NDArray[np.float64]:
        """Returns unit rows (height, dim) for one kind of token."""
        order = np.lexsort((tokens, row))
        row, tokens = row[order], tokens[order]
        first = np.ones(len(row), bool)
        first[1:] = (row[1:] != row[:-1]) | (tokens[1:] != tokens[:-1])
        starts = np.flatnonzero(first)
        counts = np.diff(np.r_[starts, len(row)])
        row, tokens = row[starts], tokens[starts]
        column = (tokens >> np.uint64(1)) % np.uint64(self.dim)
        sign = np.where(tokens & np.uint64(1), 1.0, -1.0)
        flat = np.bincount(
            row * self.dim + column.astype(np.int64),
            weights=sign * (1.0 + np.log(counts)),
            minlength=height * self.dim,
        )
        return self._scale(flat.reshape(-1, self.dim).astype(np.float64))

    @staticmethod
    def _scale(
        matrix: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.float64]:
        norms = np.linalg.norm(matrix, axis=1, keepdims=True)
        np.divide(matrix, norms, out=matrix, where=norms > 0)
        return matrix


class TextEncoder:
    """Wraps an encoder and checks its results; raises `DataError`."""

    def __init__(self, name: str, encode: Encoder) -> None:
        """Encodes one word to learn the width."""
        self.name = name
        self._encode = encode
        self.width = self._checked(_PROBE, None).shape[1]

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Returns N texts as float32 (N, width), zeros for an empty text."""
        given = [i for i, text in enumerate(texts) if text]
        matrix = np.zeros((len(texts), self.width), np.float32)
        if given:
            some = [texts[i] for i in given]
            matrix[given] = self._checked(some, self.width)
        return matrix

    def _checked(
        self, texts: Sequence[str], width: int | None
    ) -> npt.NDArray[np.float32]:
        try:
            found = np.asarray(self._encode(list(texts)))
            vectors = found.astype(np.float32)
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                "WRONG_ENCODER",
                f"text encoder {self.name} failed on {len(texts)} texts: "
                f"{type(error).__name__}: {error}.",
                "the encoder must take a list of strings and return floats "
                "(number of texts, width).",
            ) from error
        if (
            vectors.ndim != 2
            or len(vectors) != len(texts)
            or vectors.shape[1] != (width or vectors.shape[1])
            or not vectors.shape[1]
            or not np.isfinite(vectors).all()
        ):
            raise DataError(
                "WRONG_ENCODER",
                f"text encoder {self.name}: expected finite floats of shape "
                f"({len(texts)}, {width or 'width'}). Received: {found.dtype} "
                f"{found.shape}.",
                "return one vector per text, all of the same width, without "
                "NaN.",
            )
        return vectors


def load_encoder(name: str = "") -> TextEncoder:
    """Returns a text encoder by its name.

    An empty name or ``hashed_ngrams`` is `HashedNgrams`, ``sentence:MODEL`` is
    `sentence_encoder`, and ``module:function`` is the import path of any other
    `Encoder`. Raises `DataError` if there is none.
    """
    if name in ("", HASHED_NGRAMS):
        built_in = HashedNgrams()
        return TextEncoder(built_in.name, built_in)
    module_name, colon, function = name.partition(":")
    if module_name == "sentence" and function:
        return TextEncoder(name, sentence_encoder(function))
    if not colon or not module_name or not function:
        raise _unknown(name, "it is not of the form module:function")
    try:
        encode = importlib.import_module(module_name)
        for part in function.split("."):
            encode = getattr(encode, part)
    except (ImportError, AttributeError) as error:
        raise _unknown(name, str(error)) from error
    if not callable(encode):
        raise _unknown(name, "it cannot be called")
    return TextEncoder(name, encode)


def _unknown(name: str, why: str) -> DataError:
    return DataError(
        "UNKNOWN_ENCODER",
        f"text encoder {name!r} cannot be used: {why}.",
        f"give {HASHED_NGRAMS}, sentence:MODEL, or module:function of a "
        "function that Python can import here.",
    )


def sentence_encoder(model: str) -> Encoder:
    """Returns a sentence-embedding model as an encoder."""
    try:
        sentence_transformers = importlib.import_module("sentence_transformers")
    except ImportError as error:
        raise DataError(
            "MISSING_PACKAGE",
            f"text encoder sentence:{model} needs the package "
            "sentence-transformers, which is not installed.",
            "pip install sentence-transformers.",
        ) from error
    try:
        loaded = sentence_transformers.SentenceTransformer(
            model, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise _unknown(f"sentence:{model}", str(error)) from error

    def encode(texts: Sequence[str]) -> npt.NDArray[Any]:
        return loaded.encode(
            list(texts), convert_to_numpy=True, normalize_embeddings=True
        )

    return encode
