"""The perfect hash of ids against a dictionary, in NumPy and in graphs."""

import types
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from muse_keras.tables import MultimodalEmbeddingTable, hash_index
from muse_keras.tables.hash_index import (
    FINAL_MULTIPLIER,
    PILOT_MULTIPLIER,
    HashIndex,
    build_hash_index,
    index_sizes,
)

INT64 = np.iinfo(np.int64)
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="graph code of TensorFlow"
)
any_id = st.integers(INT64.min, INT64.max)
edge_id = st.sampled_from(
    [INT64.min, INT64.min + 1, INT64.max, INT64.max - 1, -1, 1, 2**32, -(2**32)]
)
id_sets = st.lists(any_id | edge_id, min_size=1, max_size=60, unique=True).map(
    lambda ids: np.array(sorted(set(ids) - {0}) or [7], np.int64)
)


def arithmetic(start: int, step: int, count: int) -> np.ndarray:
    """Return sorted ids `start + i * step`, wrapped to int64, without 0."""
    ids = (start + step * np.arange(count, dtype=object)) % 2**64
    signed = [i - 2**64 if i >= 2**63 else i for i in ids]
    return np.array(sorted(set(signed) - {0}), np.int64)


CLUSTERED = {
    "sequential": arithmetic(1, 1, 20_000),
    "around zero": arithmetic(-10_000, 1, 20_000),
    "equal low 32 bits": arithmetic(5, 2**32, 20_000),
    "equal low 48 bits": arithmetic(5, 2**48, 20_000),
    "multiples of 4096": arithmetic(0, 4096, 20_000),
    "equal halves": np.unique(
        np.arange(1, 20_000, dtype=np.int64) * (2**32 + 1)
    ),
    "end of int64": arithmetic(INT64.max - 9_999, 1, 10_000),
    "one byte each": np.unique(
        np.arange(1, 256, dtype=np.int64)[:, None] << (8 * np.arange(8))
    ),
}


def slot_of(index: HashIndex, ids: np.ndarray) -> list[int]:
    """Return the slot of every id, in Python's unbounded integers."""
    slots = []
    for item in ids.tolist():
        bits = item % 2**64
        bits = (bits ^ bits >> 32) * int(index.multiplier) % 2**64
        bits = (bits ^ bits >> 32) * FINAL_MULTIPLIER % 2**64
        pilot = int(index.pilots[(bits >> 32) * len(index.pilots) >> 32])
        bits = bits * (2 * pilot + 1) * PILOT_MULTIPLIER % 2**64
        slots.append((bits >> 32) * len(index.slots) >> 32)
    return slots


def rows(item_ids: np.ndarray, queries: Any) -> np.ndarray:
    """Return the rows a layer finds."""
    layer = MultimodalEmbeddingTable(len(item_ids), 1)
    layer.assign(
        types.SimpleNamespace(
            item_ids=item_ids,
            num_items=len(item_ids),
            dim=1,
            codes=np.zeros((len(item_ids) + 1, 1), np.int8),
            inverse_norms=lambda: np.zeros(len(item_ids) + 1, np.float32),
        )
    )
    return keras.ops.convert_to_numpy(layer.lookup(queries))


def expected(item_ids: np.ndarray, queries: np.ndarray) -> list[int]:
    """Return the rows by a dictionary."""
    known = {item: row for row, item in enumerate(item_ids.tolist(), 1)}
    return [known.get(item, 0) for item in queries.ravel().tolist()]


def check_perfect(index: HashIndex, item_ids: np.ndarray) -> None:
    """Check that every id has a slot of its own that names it."""
    slots = slot_of(index, item_ids)
    assert len(set(slots)) == len(item_ids)
    assert index.slots[slots].tolist() == list(range(len(item_ids)))
    assert (len(index.pilots), len(index.slots)) == index_sizes(len(item_ids))
    # Whatever an empty slot holds, a reader may gather it.
    assert index.slots.max() < len(item_ids)


@given(id_sets)
@settings(deadline=None)
def test_every_id_has_its_own_slot(item_ids: np.ndarray) -> None:
    check_perfect(build_hash_index(item_ids), item_ids)


@pytest.mark.parametrize("name", CLUSTERED)
def test_clustered_ids(name: str) -> None:
    item_ids = CLUSTERED[name]
    check_perfect(build_hash_index(item_ids), item_ids)
    with np.errstate(over="ignore"):
        queries = np.concatenate([item_ids, item_ids + 1, item_ids ^ 2**40])
    found = rows(item_ids, queries)
    assert found.tolist() == expected(item_ids, queries)


def test_more_ids_than_one_block() -> None:
    rng = np.random.default_rng(0)
    item_ids = np.unique(rng.integers(INT64.min, INT64.max, 200_000))
    index = build_hash_index(item_ids)
    check_perfect(index, item_ids)
    assert 6 * len(item_ids) > index.pilots.nbytes + index.slots.nbytes


def test_order_of_ids_is_the_callers() -> None:
    item_ids = np.array([9, -4, INT64.max, 3])
    index = build_hash_index(item_ids)
    assert index.slots[slot_of(index, item_ids)].tolist() == [0, 1, 2, 3]


def test_another_multiplier_when_pilots_run_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []
    inner = hash_index._try_build

    def second_time(ids: Any, multiplier: Any, pilots: int) -> Any:
        tried.append(multiplier)
        return inner(ids, multiplier, pilots) if len(tried) > 1 else None

    monkeypatch.setattr(hash_index, "_try_build", second_time)
    item_ids = np.arange(1, 500)
    check_perfect(build_hash_index(item_ids), item_ids)
    assert len(set(tried)) == 2
    queries = np.arange(-5, 510)
    tried.clear()
    assert rows(item_ids, queries).tolist() == expected(item_ids, queries)


@pytest.mark.parametrize("ids", [[3, 3], [5] * 40])
def test_repeated_ids_are_refused(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="`item_ids` must be unique"):
        build_hash_index(np.array(ids))


@given(data=st.data(), item_ids=id_sets)
@settings(deadline=None, max_examples=40)
def test_lookup_is_the_dictionarys_answer(
    data: st.DataObject, item_ids: np.ndarray
) -> None:
    """Known, unknown and repeated ids, in any shape, empty ones too."""
    asked = any_id | edge_id | st.just(0) | st.sampled_from(item_ids.tolist())
    queries = data.draw(
        npst.arrays(
            np.int64,
            npst.array_shapes(max_dims=3, min_side=0, max_side=5),
            elements=asked,
        )
    )
    found = rows(item_ids, queries)
    assert found.shape == queries.shape
    assert found.dtype == np.int32
    assert found.ravel().tolist() == expected(item_ids, queries)


@pytest.mark.parametrize("item", [INT64.min, INT64.max, -1, 1, 2**32])
def test_a_table_of_one_id(item: int) -> None:
    queries = np.array([item, 0, -item if item > INT64.min else 1, item])
    item_ids = np.array([item])
    assert rows(item_ids, queries).tolist() == expected(item_ids, queries)


@on_tensorflow
def test_lookup_is_three_gathers_and_arithmetic_of_64_bits() -> None:
    import tensorflow as tf

    table = MultimodalEmbeddingTable(10, 1)
    table.build()
    graph = tf.function(table.lookup).get_concrete_function(
        tf.TensorSpec([None, None], tf.int64)
    )
    kinds = [operation.type for operation in graph.graph.get_operations()]
    assert kinds.count("ResourceGatherNd") == 3
    assert not {"ResourceGather", "LowerBound", "While"} & set(kinds)
