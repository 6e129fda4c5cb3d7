"""The built-in text encoder against a plain one, and what encoders may not."""

import collections
import hashlib
import math
import re
import subprocess
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muse_tools.datasets import text_features
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.text_features import HashedNgrams, load_encoder


def oracle(text, dim, seed):
    """One text at a time, one token at a time."""
    words = re.findall(r"\w+", text.lower())
    grams = []
    for word in words:
        bordered = f" {word} "
        for size in (2, 3, 4):
            for start in range(len(bordered) - size + 1):
                grams.append("g" + bordered[start : start + size])
    total = np.zeros(dim)
    for tokens in (["w" + word for word in words], grams):
        part = np.zeros(dim)
        for token, count in collections.Counter(tokens).items():
            digest = hashlib.blake2b(
                token.encode(),
                digest_size=8,
                key=seed.to_bytes(8, "little", signed=True),
            ).digest()
            number = int.from_bytes(digest, "little")
            sign = 1 if number & 1 else -1
            part[(number >> 1) % dim] += sign * (1 + math.log(count))
        total += part / (np.linalg.norm(part) or 1)
    return total / (np.linalg.norm(total) or 1)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.text(alphabet="abAB c7-,.ü茶", max_size=25), min_size=1, max_size=6
    ),
    st.integers(2, 40),
    st.integers(0, 3),
)
def test_vectors_are_those_of_the_oracle(texts, dim, seed):
    found = HashedNgrams(dim, seed)(texts)
    assert found.dtype == np.float32 and found.shape == (len(texts), dim)
    wanted = [oracle(text, dim, seed) for text in texts]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_what_changes_nothing_and_what_does():
    encode = HashedNgrams(256)
    milk, again, wide, other, order = encode(
        [
            "Whole Milk 2%",
            "whole  milk, 2 %",
            "ｗｈｏｌｅ milk 2",
            "beer",
            "milk whole 2",
        ]
    )
    np.testing.assert_array_equal(milk, again)
    np.testing.assert_array_equal(milk, wide)
    np.testing.assert_allclose(milk, order, atol=1e-7)
    assert milk @ milk == pytest.approx(1)
    assert abs(milk @ other) < 0.2
    near, far, misspelt = encode(["yogurt vanilla", "cola", "yoghurt vanila"])
    assert misspelt @ near > misspelt @ far + 0.2


def test_repeated_and_many_texts(monkeypatch):
    monkeypatch.setattr(text_features, "_BLOCK", 3)
    texts = ["a b", "c", "", "a b", "d e f", "...", "c", "gg", "a b"]
    encode = HashedNgrams(16)
    found = encode(texts)
    np.testing.assert_array_equal(
        found, np.concatenate([encode([text]) for text in texts])
    )
    assert not found[[2, 5]].any()
    assert encode([]).shape == (0, 16)


def test_another_process_finds_the_same_vectors():
    text = "Fluid milk, 1 GA"
    code = (
        "from muse_tools.datasets.text_features import HashedNgrams as H\n"
        f"print(H(64, 5)([{text!r}]).tobytes().hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7", "PATH": ""},
    )
    assert done.stdout.strip() == HashedNgrams(64, 5)([text]).tobytes().hex()


def test_encoders_by_name(monkeypatch):
    module = types.ModuleType("my_encoders")
    module.lengths = lambda texts: [[len(t), 1.0] for t in texts]
    module.number = 3
    monkeypatch.setitem(sys.modules, "my_encoders", module)
    encoder = load_encoder("my_encoders:lengths")
    assert encoder.width == 2 and encoder.name == "my_encoders:lengths"
    assert encoder(["abc", "", "a"]).tolist() == [[3, 1], [0, 0], [1, 1]]
    assert load_encoder().width == load_encoder("hashed_ngrams").width == 512
    for name in ("my_encoders", "no_such_module:f", "my_encoders:g", ":f"):
        with pytest.raises(DataError) as error:
            load_encoder(name)
        assert error.value.code == "UNKNOWN_ENCODER"
        assert "module:function" in error.value.hint
    with pytest.raises(DataError, match="cannot be called"):
        load_encoder("my_encoders:number")


@pytest.mark.parametrize(
    "result",
    [
        lambda texts: np.zeros(len(texts)),
        lambda texts: np.zeros((len(texts) + 1, 2)),
        lambda texts: np.full((len(texts), 2), np.nan),
        lambda texts: np.zeros((len(texts), 0)),
        lambda texts: [["a"] for _ in texts],
        lambda texts: 1 / 0,
        lambda texts: np.ones((len(texts), 2 if texts == ["probe"] else 3)),
    ],
)
def test_encoders_that_do_not_work_are_refused(result):
    with pytest.raises(DataError) as error:
        text_features.TextEncoder("mine", result)(["a", "b"])
    assert error.value.code == "WRONG_ENCODER" and "mine" in str(error.value)


def test_sentence_models(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(DataError) as error:
        load_encoder("sentence:some-model")
    assert error.value.code == "MISSING_PACKAGE"
    assert "pip install sentence-transformers" in error.value.hint

    class Model:
        def __init__(self, name, local_files_only):
            assert local_files_only
            if name != "here":
                raise OSError("not in the cache")

        def encode(self, texts, convert_to_numpy, normalize_embeddings):
            return np.ones((len(texts), 3), np.float32)

    module = types.ModuleType("sentence_transformers")
    module.SentenceTransformer = Model
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    encoder = load_encoder("sentence:here")
    assert encoder(["x", ""]).tolist() == [[1, 1, 1], [0, 0, 0]]
    with pytest.raises(DataError, match="not in the cache"):
        load_encoder("sentence:there")
