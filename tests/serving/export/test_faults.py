"""Requests that do not fit are refused by name, as on a real server."""

from typing import Any

import numpy as np
import pytest

from tests.serving.export.world import World, make_requests, rank_inputs

tf = pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def served(world: World) -> Any:
    """Call signatures as the server does, without any check in Python.

    TensorFlow Serving feeds whatever arrives to the session; Python would
    refuse a wrong rank before the graph sees it.
    """
    from tensorflow.python.client import pywrap_tf_session

    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph)
    with graph.as_default():
        loaded = tf.compat.v1.saved_model.load(
            session, ["serve"], str(world.export.path)
        )
    definition = loaded.signature_def

    def call(signature: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        declared = definition[signature]

        def handle(name: str) -> Any:
            return graph.get_tensor_by_name(name)._as_tf_output()

        return pywrap_tf_session.TF_SessionRun_wrapper(
            session._session,
            None,
            {
                handle(declared.inputs[key].name): value
                for key, value in inputs.items()
            },
            [handle(next(iter(declared.outputs.values())).name)],
            [],
            None,
        )[0]

    yield call
    session.close()


@pytest.fixture
def inputs(world: World) -> dict[str, np.ndarray]:
    """Return a good request of two users."""
    return rank_inputs(make_requests(world.item_table, 2, seed=20))


def test_a_good_request_passes(served: Any, inputs: dict[str, Any]) -> None:
    assert (served("rank", inputs) > 0).any()


@pytest.mark.parametrize("signature", ["rank", "explain"])
@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("user_profile_3", lambda v: v[:1], "as many rows as `user_id`"),
        ("candidate_item_ids", lambda v: v[:1], "as many rows"),
        ("behavior_item_ids", lambda v: v[:1], "as many rows"),
        ("behavior_category", lambda v: v[:1], "as many rows"),
        ("behavior_category", lambda v: v[:, 1:], "as long as"),
        (
            "user_profile_1",
            lambda v: v[0],
            "not compatible with expected shape",
        ),
        ("candidate_item_ids", lambda v: v[0], "expected shape"),
        ("behavior_item_ids", lambda v: v[None], "expected shape"),
        ("user_id", lambda v: v[0], "expected shape"),
        ("user_id", lambda v: v[:, None], "expected shape"),
    ],
)
def test_wrong_sizes(
    served: Any,
    inputs: dict[str, Any],
    signature: str,
    field: str,
    change: Any,
    message: str,
) -> None:
    broken = inputs | {field: np.array(change(inputs[field]))}
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        served(signature, broken)
    assert field in str(error.value)
    assert message in str(error.value)


def test_embed_wants_a_vector(served: Any) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="item_ids"):
        served("embed", {"item_ids": np.ones((2, 2), np.int64)})


def test_examples_that_are_none(served: Any) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="Example"):
        served("serving_default", {"examples": np.array([b"no"], object)})
