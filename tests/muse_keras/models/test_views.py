"""What is not read of a view is not computed."""

import collections

import keras
import numpy as np
import pytest
from ranker_testing.data import SMALL, fill_table, ranker_inputs

from muse_keras.models import (
    DIN,
    MUSE,
    SDIM,
    BehaviorView,
    CandidateView,
    FoundBehaviors,
    FullDIN,
    SearchRanker,
    SIMHard,
)

ROWS = np.array([[2, 0, 1]], "int32")
CODES = np.array([[[0, 0], [1, 2], [3, 4]]], "int8")


def test_a_field_is_made_when_read_and_once():
    calls = []
    view = CandidateView(ROWS, lambda: calls.append(1) or CODES)
    assert not calls
    first = view.vectors
    assert keras.ops.is_tensor(first)
    assert view.vectors is first and calls == [1]


def test_a_field_that_was_not_given_is_named():
    with pytest.raises(ValueError, match="`embeddings`.*CandidateView"):
        _ = CandidateView(ROWS).embeddings


@pytest.mark.parametrize("by_rows", [True, False])
def test_positions_are_read_without_the_whole_history(by_rows):
    read = []

    def codes_of(rows):
        read.append(tuple(rows.shape))
        return keras.ops.take(keras.ops.convert_to_tensor(CODES[0]), rows, 0)

    given = (
        {"vectors_of": codes_of} if by_rows else {"vectors": CODES[:, ROWS[0]]}
    )
    view = BehaviorView(ROWS, ROWS > 0, **given)
    found = view.at(np.array([[[0, 2]]], "int32")).vectors
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(found), [[[[3, 4], [1, 2]]]]
    )
    assert read == ([(1, 1, 2)] if by_rows else [])
    whole = keras.ops.convert_to_numpy(view.vectors)
    np.testing.assert_array_equal(whole, CODES[:, ROWS[0]])


def test_features_are_read_at_positions_by_name():
    features = {"brand": ROWS, "price": ROWS[:, ::-1]}
    view = BehaviorView(ROWS, ROWS > 0, features=lambda: features)
    found = view.at(np.array([[2, 0]], "int32")).features
    for name, expected in (("brand", [[1, 2]]), ("price", [[2, 1]])):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(found[name]), expected
        )
    with pytest.raises(ValueError, match="`features`.*BehaviorView"):
        _ = BehaviorView(ROWS, ROWS > 0).at(ROWS).features


def test_a_search_runs_when_its_result_is_read_and_once():
    runs = []

    def search():
        runs.append(1)
        return FoundBehaviors(ROWS[:, None], ROWS[:, None] > 0)

    found = FoundBehaviors.by(search)
    assert not runs
    _ = found.indices, found.mask, found.indices
    assert runs == [1]


def reads(function, model):
    """How often a graph reads each table."""
    import tensorflow as tf

    inputs = ranker_inputs(np.random.default_rng(0))
    graph = function.get_concrete_function(
        {
            name: tf.TensorSpec([None, None, *value.shape[2:]], value.dtype)
            if name != "user_features"
            else tf.TensorSpec([None, 5], value.dtype)
            for name, value in inputs.items()
        }
    ).graph
    tables = {
        "codes": model.table.codes,
        "inverse_norms": model.table.inverse_norms,
        "items": model.item_embedding.embeddings,
    }
    names = {
        id(variable.value.handle): name for name, variable in tables.items()
    }
    inside = {
        inner.name: names.get(id(outer)) for outer, inner in graph.captures
    }
    return collections.Counter(
        inside.get(operation.inputs[0].name)
        for operation in graph.get_operations()
        if operation.type.startswith("ResourceGather")
    )


# Candidates and recent behaviors are always read.
@pytest.mark.tf
@pytest.mark.parametrize(
    ("make", "codes", "norms", "items"),
    [
        (lambda: DIN(**SMALL), 2, 0, 2),
        (lambda: MUSE(**SMALL), 3, 1, 3),
        (lambda: SIMHard(**SMALL), 3, 0, 3),
        (lambda: SearchRanker(**SMALL, gsu="category", esu="ta"), 2, 0, 3),
        (lambda: SearchRanker(**SMALL, gsu="category", esu="simtier"), 3, 0, 2),
        # Its unit looks at the history: the search is not run.
        (lambda: SDIM(**SMALL), 2, 0, 3),
        (lambda: FullDIN(**SMALL), 2, 0, 3),
        # Which item it is does not need what it looks like.
        (lambda: MUSE(**SMALL, esu="sa_ta_simtier_identity"), 3, 1, 3),
        (lambda: SearchRanker(**SMALL, gsu="scl_cosine", esu="sdim"), 2, 0, 3),
    ],
)
def test_a_graph_reads_what_its_model_looks_at(make, codes, norms, items):
    import tensorflow as tf

    model = make()
    fill_table(model)
    found = reads(tf.function(lambda inputs: model(inputs)), model)
    assert (found["codes"], found["inverse_norms"]) == (codes, norms)
    assert found["items"] == items


@pytest.mark.tf
def test_an_explanation_shares_the_embedded_history():
    import tensorflow as tf

    model = SearchRanker(**SMALL, gsu="id_cosine", esu="sdim")
    fill_table(model)
    found = reads(tf.function(model.explain), model)
    # Candidates, recent ones, the history once, what was found.
    assert found["items"] == 4
