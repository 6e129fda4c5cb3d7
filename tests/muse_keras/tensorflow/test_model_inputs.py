"""Transformed features, in any container, to the same dense inputs."""

from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from muse_keras.tensorflow import dense_model_inputs, present  # noqa: E402

pytestmark = pytest.mark.tf

BEHAVIORS = {
    "behavior_item_ids": [[2**63 - 1, -(2**63)], [], [7]],
    "behavior_categories": [[1, 2], [], [3]],
}
CANDIDATES = {
    "candidate_item_ids": [[5], [6, -6, 66], [9, 8]],
    "candidate_categories": [[1], [0, 2, 3], [1, 1]],
    "candidate_cities": [[4], [5, 6, 0], [1, 1]],
    "candidate_provinces": [[4], [5, 6, 0], [1, 2]],
    "candidate_category_matches": [[1.0], [0.0, 2.0, 3.0], [1.0, 1.0]],
}
PROFILE = np.arange(15).reshape(3, 5)


def feature(rows: list[list[Any]], kind: str) -> Any:
    """Return ragged rows in a container."""
    dtype = tf.float32 if isinstance(rows[0][0], float) else tf.int64
    ragged = tf.ragged.constant(rows, dtype=dtype)
    if kind == "sparse":
        return ragged.to_sparse()
    return ragged if kind == "ragged" else ragged.to_tensor()


def transformed(kind: str) -> dict[str, Any]:
    """Return a batch of transformed features."""
    features = {
        name: feature(rows, kind)
        for name, rows in (BEHAVIORS | CANDIDATES).items()
    }
    return features | {
        "user_profile": tf.constant(PROFILE),
        "user_id": feature([[1], [2], [3]], kind),
        "clicks": feature([[1], [0, 1, 0], [0, 0]], kind),
    }


def padded(rows: list[list[Any]]) -> np.ndarray:
    """Return rows padded with 0 on the right."""
    width = max(map(len, rows))
    return np.array([row + [0] * (width - len(row)) for row in rows])


@pytest.mark.parametrize("kind", ["sparse", "ragged", "dense"])
def test_dense_model_inputs(kind: str) -> None:
    inputs = dense_model_inputs(transformed(kind))
    dtypes = {
        "user_profile": "int32",
        "behavior_item_ids": "int64",
        "behavior_categories": "int32",
        "behavior_mask": "bool",
        "candidate_item_ids": "int64",
        "candidate_categories": "int32",
        "candidate_cities": "int32",
        "candidate_provinces": "int32",
        "candidate_category_matches": "float32",
        "candidate_mask": "bool",
    }
    assert {name: v.dtype.name for name, v in inputs.items()} == dtypes
    for name, rows in (BEHAVIORS | CANDIDATES).items():
        np.testing.assert_array_equal(inputs[name], padded(rows))
    np.testing.assert_array_equal(inputs["user_profile"], PROFILE)
    np.testing.assert_array_equal(
        inputs["behavior_mask"], padded(BEHAVIORS["behavior_item_ids"]) != 0
    )
    np.testing.assert_array_equal(
        inputs["candidate_mask"],
        [[True, False, False], [True] * 3, [True, True, False]],
    )


@pytest.mark.parametrize("kind", ["sparse", "ragged"])
def test_a_candidate_of_id_0_is_a_candidate(kind: str) -> None:
    rows = [[0], [4, 0, 0]]
    np.testing.assert_array_equal(
        present(feature(rows, kind)), [[True, False, False], [True] * 3]
    )


@pytest.mark.parametrize("kind", ["sparse", "ragged"])
def test_in_a_dataset(kind: str) -> None:
    """As the trainer's input does it, with unknown sizes."""
    dataset = tf.data.Dataset.from_tensors(transformed(kind)).map(
        dense_model_inputs
    )
    eager = dense_model_inputs(transformed(kind))
    for name, value in next(iter(dataset)).items():
        np.testing.assert_array_equal(value, eager[name])


def test_names_a_missing_feature() -> None:
    features = transformed("sparse")
    del features["candidate_cities"]
    with pytest.raises(ValueError, match="'candidate_cities'"):
        dense_model_inputs(features)
