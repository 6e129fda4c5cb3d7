"""The tensors of a ranking request, and what is asserted about them.

Sizes are declared None: TensorFlow Serving does not enforce declared sizes
while its graph optimizer believes them. They are asserted inside instead, and
a failed assertion reaches the client as INVALID_ARGUMENT with the text below.
"""

from typing import TypeAlias

import tensorflow as tf

from muse_keras.tensorflow import FeatureNames

Specs: TypeAlias = dict[str, tf.TensorSpec]


def _ids(name: str, rank: int, dtype: tf.DType = tf.int64) -> Specs:
    return {name: tf.TensorSpec([None] * rank, dtype, name=name)}


USER_CACHE_INPUTS = _ids("user_id", 1)
RANK_CACHED_INPUTS = {**USER_CACHE_INPUTS, **_ids("candidate_item_ids", 2)}
EMBED_INPUTS = _ids("item_ids", 1)
EXAMPLES_INPUTS = _ids("examples", 1, tf.string)
# Lengths that histories are filled up to: a multiple of the first number of
# behaviors, of the second from that number of behaviors on.
_SHORT_STEP, _LONG_STEP, _LONG = 100, 500, 5_000


def rank_inputs(names: FeatureNames) -> Specs:
    """Return the inputs of `rank` and `explain`."""
    return {**prefetch_inputs(names), **RANK_CACHED_INPUTS}


def prefetch_inputs(names: FeatureNames) -> Specs:
    """Return the inputs of `prefetch`."""
    return {**_features(names), **_ids("behavior_item_ids", 2)}


def prefetch_rows_inputs(names: FeatureNames) -> Specs:
    """Return the inputs of `prefetch_rows`."""
    return {
        **_features(names),
        **_ids("behavior_rows", 2, tf.int32),
        **_ids("table_stamp", 1),
    }


def _features(names: FeatureNames) -> Specs:
    specs = dict(USER_CACHE_INPUTS)
    for rank, group in ((1, names.user), (2, names.behavior)):
        for name in group:
            specs |= _ids(name, rank)
    return specs


def in_few_lengths(request: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Fill the histories of a request up with padding, to one of few lengths.

    On a CPU TensorFlow keeps compiled matrix products for each shape it has
    seen, about 0.2 MB for one length of history: with lengths as they come, a
    server grows for hours.
    """
    # Shapes are on the host.
    shape = tf.shape(request["behavior_item_ids"])
    batch, length = shape[0], shape[1]
    step = tf.where(length < _LONG, _SHORT_STEP, _LONG_STEP)
    missing = -(-length // step) * step - length
    filled = dict(request)
    for name, values in request.items():
        if name.startswith("behavior_"):
            shape = [batch, missing, *values.shape[2:]]
            padding = tf.zeros(shape, values.dtype)
            filled[name] = tf.concat([values, padding], axis=1)
    return filled


def checked_request(
    inputs: dict[str, tf.Tensor], specs: Specs
) -> dict[str, tf.Tensor]:
    """Assert the sizes of a request.

    Only shapes are looked at, so that the checks stay on the host and never
    wait for the ids.
    """
    inputs = with_rank(inputs, specs)
    shapes = {name: tf.shape(value) for name, value in inputs.items()}
    checks = as_long_as("user_id", shapes)
    for items in {"behavior_item_ids", "behavior_rows"} & set(shapes):
        checks += [
            require(
                tf.equal(shape[1], shapes[items][1]),
                f"`{name}` must be as long as `{items}`. Received shapes:",
                shape,
                shapes[items],
            )
            for name, shape in shapes.items()
            if name.startswith("behavior_") and name != items
        ]
    with tf.control_dependencies(checks):
        return {name: tf.identity(value) for name, value in inputs.items()}


def checked_item_ids(item_ids: tf.Tensor) -> tf.Tensor:
    """Assert that `item_ids` is a vector, and return it."""
    return with_rank({"item_ids": item_ids}, EMBED_INPUTS)["item_ids"]


def with_rank(
    inputs: dict[str, tf.Tensor], specs: Specs
) -> dict[str, tf.Tensor]:
    """Check ranks when the graph runs; a server lets any rank in."""
    return {
        name: tf.ensure_shape(inputs[name], spec.shape)
        for name, spec in specs.items()
    }


def as_long_as(first: str, shapes: dict[str, tf.Tensor]) -> list[tf.Operation]:
    """Assert that all tensors have one row for each of the first."""
    return [
        require(
            tf.equal(shape[0], shapes[first][0]),
            f"`{name}` must have as many rows as `{first}`. "
            f"Received shapes of `{name}` and `{first}`:",
            shape,
            shapes[first],
        )
        for name, shape in shapes.items()
        if name != first
    ]


def require(
    condition: tf.Tensor, message: str, *data: tf.Tensor
) -> tf.Operation:
    """Return an assertion.

    `tf.debugging` would wrap each one in a conditional function.
    """
    return tf.raw_ops.Assert(
        condition=condition, data=[message, *data], summarize=8
    )
