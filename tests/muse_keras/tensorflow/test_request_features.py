"""Request features against their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

tf = pytest.importorskip("tensorflow")

from muse_keras.tensorflow import feature_matches, newest_mask  # noqa: E402

pytestmark = pytest.mark.tf

CATEGORIES = 6


@settings(max_examples=50, deadline=None)
@given(
    ids=st.integers(0, 9).flatmap(
        lambda length: st.lists(
            st.lists(
                st.sampled_from([0, 0, 5, -(2**63), 2**63 - 1]),
                min_size=length,
                max_size=length,
            ),
            min_size=1,
            max_size=4,
        )
    ),
    max_history=st.one_of(st.none(), st.integers(1, 10)),
)
def test_newest_mask(ids: list[list[int]], max_history: int | None) -> None:
    array = np.array(ids, np.int64).reshape(len(ids), -1)
    mask = newest_mask(tf.constant(array), max_history).numpy()
    assert mask.dtype == bool and mask.shape == array.shape
    for row, got in zip(array, mask, strict=True):
        real = np.flatnonzero(row)
        keep = real if max_history is None else real[-max_history:]
        assert np.flatnonzero(got).tolist() == keep.tolist()


@pytest.mark.parametrize("max_history", [0, -3])
def test_newest_mask_refuses(max_history: int) -> None:
    with pytest.raises(ValueError, match="`max_history` must be at least 1"):
        newest_mask(tf.zeros([1, 2], tf.int64), max_history)


@settings(max_examples=50, deadline=None)
@given(
    data=st.data(),
    dtype=st.sampled_from([np.int32, np.int64]),
    many=st.sampled_from([(), (1,), (3,)]),
)
def test_feature_matches(
    data: st.DataObject, dtype: type, many: tuple[int, ...]
) -> None:
    batch = data.draw(st.integers(0, 4))
    length, count = (data.draw(st.integers(0, 9)) for _ in range(2))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    behaviors, candidates = (
        rng.integers(0, CATEGORIES, (batch, things, *many)).astype(dtype)
        for things in (length, count)
    )
    mask = rng.random((batch, length)) < 0.7
    got = feature_matches(
        tf.constant(behaviors),
        tf.constant(mask),
        tf.constant(candidates),
        CATEGORIES,
    ).numpy()
    expected = np.zeros((batch, count), np.float32)
    for b, c in np.ndindex(batch, count):
        for category in candidates[b, c].ravel():
            if category != 0:
                expected[b, c] += (behaviors[b][mask[b]] == category).sum()
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)


def test_feature_matches_counts_a_long_history_exactly() -> None:
    length = 100_001
    behaviors = np.full((1, length), 3)
    got = feature_matches(
        tf.constant(behaviors),
        tf.ones([1, length], tf.bool),
        tf.constant([[3, 2]], tf.int64),
        tf.constant(5, tf.int64),
    )
    np.testing.assert_array_equal(got, [[length, 0]])
