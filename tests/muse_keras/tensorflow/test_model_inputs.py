"""Transformed features, in any container, to the same dense inputs."""

from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from muse_keras.tensorflow import (  # noqa: E402
    FeatureNames,
    dense_model_inputs,
    present,
)

pytestmark = pytest.mark.tf

BEHAVIORS = {
    "behavior_item_ids": [[2**63 - 1, -(2**63)], [], [7]],
    "behavior_brands": [[1, 2], [], [3]],
    "behavior_colors": [[0, 2], [], [9]],
}
CANDIDATES = {
    "candidate_item_ids": [[5], [6, -6, 66], [9, 8]],
    "candidate_prices": [[1], [0, 2, 3], [1, 1]],
    "candidate_colors": [[4], [5, 6, 0], [1, 1]],
    "candidate_brands": [[4], [5, 6, 0], [1, 2]],
    "brand_matches": [[1.0], [0.0, 2.0, 3.0], [1.0, 1.0]],
    "color_matches": [[0.0], [4.0, 1.0, 0.0], [2.0, 1.0]],
    "candidate_price": [[0.5], [0.0, 2.5, -3.0], [1.0, 1.0]],
}
# Two columns of each behavior or candidate.
WIDE = {
    "behavior_tags": [[1, 2, 3, 0], [], [5, 6]],
    "candidate_tags": [[1, 0], [2, 3, 4, 5, 6, 7], [8, 9, 0, 0]],
    "context_device": [[4, 5], [1, 2, 3, 4, 5, 6], [0, 0, 7, 8]],
    "context_load": [[0.5, 1.0], [0.0] * 6, [1.5, 1.0, 2.5, 1.0]],
}
PROFILE = np.arange(12).reshape(3, 4)
AGE = [[7], [0], [1]]
INCOME = [[0.5, 1.0], [0.0, 0.0], [-1.5, 1.0]]
NAMES = FeatureNames(
    user={"age": 1, "profile": 4},
    item={"candidate_brands": 1, "candidate_tags": 2, "candidate_prices": 1},
    context={"context_device": 2, "candidate_colors": 1},
    behavior={
        "behavior_colors": 1,
        "behavior_tags": 2,
        "behavior_brands": 1,
    },
    matches={"color_matches": 1, "brand_matches": 1},
    user_numbers={"income": 2},
    item_numbers={"candidate_price": 1},
    context_numbers={"context_load": 2},
)


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
        for name, rows in (BEHAVIORS | CANDIDATES | WIDE).items()
    }
    return features | {
        "age": tf.constant(AGE),
        "income": tf.constant(INCOME),
        "profile": tf.constant(PROFILE),
        "user_id": feature([[1], [2], [3]], kind),
        "clicks": feature([[1], [0, 1, 0], [0, 0]], kind),
    }


def padded(rows: list[list[Any]]) -> np.ndarray:
    """Return rows padded with 0 on the right."""
    width = max(map(len, rows))
    return np.array([row + [0] * (width - len(row)) for row in rows])


@pytest.mark.parametrize("kind", ["sparse", "ragged", "dense"])
def test_dense_model_inputs(kind: str) -> None:
    inputs = dense_model_inputs(transformed(kind), NAMES)
    dtypes = {
        "user_features": "int32",
        "user_numbers": "float32",
        "context_features": "int32",
        "context_numbers": "float32",
        "candidate_numbers": "float32",
        "behavior_item_ids": "int64",
        "behavior_features": "int32",
        "behavior_mask": "bool",
        "candidate_item_ids": "int64",
        "candidate_features": "int32",
        "candidate_matches": "float32",
        "candidate_mask": "bool",
    }
    assert {name: v.dtype.name for name, v in inputs.items()} == dtypes
    given = BEHAVIORS | CANDIDATES
    for name in ("behavior_item_ids", "candidate_item_ids"):
        np.testing.assert_array_equal(inputs[name], padded(given[name]))
    for group, names in (
        ("behavior_features", NAMES.behavior),
        ("candidate_features", NAMES.item),
        ("context_features", NAMES.context),
        ("candidate_matches", NAMES.matches),
        ("candidate_numbers", NAMES.item_numbers),
        ("context_numbers", NAMES.context_numbers),
    ):
        wanted = []
        for name, width in names.items():
            rows = padded((given | WIDE)[name])
            wanted.append(rows.reshape(*rows.shape[:1], -1, width))
        np.testing.assert_array_equal(
            inputs[group], np.concatenate(wanted, axis=2)
        )
    np.testing.assert_array_equal(inputs["user_numbers"], INCOME)
    np.testing.assert_array_equal(
        inputs["user_features"], np.concatenate([AGE, PROFILE], axis=1)
    )
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
        lambda batch: dense_model_inputs(batch, NAMES)
    )
    eager = dense_model_inputs(transformed(kind), NAMES)
    for name, value in next(iter(dataset)).items():
        np.testing.assert_array_equal(value, eager[name])


def test_names_a_missing_feature() -> None:
    features = transformed("sparse")
    del features["candidate_colors"]
    with pytest.raises(ValueError, match="'candidate_colors'"):
        dense_model_inputs(features, NAMES)


def test_groups_without_names_are_left_out() -> None:
    inputs = dense_model_inputs(transformed("sparse"), FeatureNames())
    assert sorted(inputs) == [
        "behavior_item_ids",
        "behavior_mask",
        "candidate_item_ids",
        "candidate_mask",
    ]
