"""The tensors of a ranking request and the assertions about them.

Sizes are declared as None, because TensorFlow Serving does not enforce declared
sizes while its graph optimizer relies on them. They are asserted in the graph
instead; a failed assertion reaches the client as INVALID_ARGUMENT.
"""

import math
from collections.abc import Mapping
from typing import TypeAlias

import tensorflow as tf

from schemas.columns import Feature, Features
from serving.export.feature_names import prefixed

Specs: TypeAlias = dict[str, tf.TensorSpec]


def _ids(name: str, rank: int, dtype: tf.DType = tf.int64) -> Specs:
    return {name: tf.TensorSpec([None] * rank, dtype, name=name)}


USER_CACHE_INPUTS = _ids("user_id", 1)
EMBED_INPUTS = _ids("item_ids", 1)
EXAMPLES_INPUTS = _ids("examples", 1, tf.string)
# Histories are padded to a multiple of the first number, or of the second one
# for histories of at least the third number of behaviors.
_SHORT_STEP, _LONG_STEP, _LONG = 100, 500, 5_000
# Ids that determine the length of the other inputs with the same prefix.
_PER_ITEM = ("behavior_item_ids", "behavior_rows", "candidate_item_ids")


def rank_inputs(features: Features) -> Specs:
    """Return the inputs of `rank` and `explain`.

    Here and below, features with several values have their number of values,
    which a graph does not declare; see `traced`.
    """
    return {**prefetch_inputs(features), **rank_cached_inputs(features)}


def rank_cached_inputs(features: Features) -> Specs:
    """Return the inputs of `rank_cached`."""
    return {
        **USER_CACHE_INPUTS,
        **_ids("candidate_item_ids", 2),
        **_of_features(1, "context", _served(features.context)),
        **_of_features(2, "candidate", _served(features.candidate)),
    }


def prefetch_inputs(features: Features) -> Specs:
    """Return the inputs of `prefetch`."""
    return {**_of_users(features), **_ids("behavior_item_ids", 2)}


def prefetch_rows_inputs(features: Features) -> Specs:
    """Return the inputs of `prefetch_rows`."""
    return {
        **_of_users(features),
        **_ids("behavior_rows", 2, tf.int32),
        **_ids("table_stamp", 1),
    }


def item_inputs(features: Features) -> Specs:
    """Return the features among the inputs of `upsert_items`."""
    return _of_features(1, "item", features.item)


def traced(specs: Specs) -> Specs:
    """Return the inputs as a graph declares them, with unknown sizes."""
    return {
        name: tf.TensorSpec([None] * spec.shape.rank, spec.dtype, name)
        for name, spec in specs.items()
    }


def _of_users(features: Features) -> Specs:
    carried = {
        name: features.of_behavior(name)
        for name in features.behavior
        if name not in features.of_items
    }
    return {
        **USER_CACHE_INPUTS,
        **_of_features(1, "user", features.user),
        **_of_features(2, "behavior", carried),
    }


def _of_features(
    rank: int, group: str, features: Mapping[str, Feature]
) -> Specs:
    """Return inputs for features of entities; their ids have `rank` axes."""
    return {
        name: tf.TensorSpec(
            [None] * rank + ([one.raw_width] if one.many or one.dim else []),
            one.dtype,
            name,
        )
        for name, one in prefixed(group, features).items()
    }


def _served(features: Mapping[str, Feature]) -> dict[str, Feature]:
    return {n: one for n, one in features.items() if not one.training_only}


def in_few_lengths(request: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Pad the histories of a request to one of a few lengths.

    On a CPU, TensorFlow caches compiled matrix products for each shape, about
    0.2 MB for one length of history. With arbitrary lengths, the memory of a
    server grows for hours. The padding has missing values, NaN for numbers,
    and the item id 0.
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
            padding = (
                tf.fill(shape, tf.constant(math.nan, values.dtype))
                if values.dtype.is_floating
                else tf.zeros(shape, values.dtype)
            )
            filled[name] = tf.concat([values, padding], axis=1)
    return filled


def checked_request(
    inputs: dict[str, tf.Tensor], specs: Specs
) -> dict[str, tf.Tensor]:
    """Assert the sizes of a request.

    Only shapes are read, so that the checks run on the host and never wait for
    the ids.
    """
    inputs = with_rank(inputs, specs)
    shapes = {name: tf.shape(value) for name, value in inputs.items()}
    checks = as_long_as("user_id", shapes)
    for items in (name for name in _PER_ITEM if name in shapes):
        group = items.partition("_")[0]
        checks += [
            require(
                tf.equal(shape[1], shapes[items][1]),
                f"`{name}` must be as long as `{items}`. Received shapes:",
                shape,
                shapes[items],
            )
            for name, shape in shapes.items()
            if name.startswith(f"{group}_") and name != items
        ]
    return as_declared(inputs, specs, checks)


def as_declared(
    inputs: dict[str, tf.Tensor], specs: Specs, checks: list[tf.Operation]
) -> dict[str, tf.Tensor]:
    """Assert declared numbers of values, and run the other checks."""
    widths = {name: spec.shape[-1] for name, spec in specs.items()}
    checks = checks + [
        require(
            tf.equal(tf.shape(inputs[name])[-1], width),
            f"`{name}` must have {width} values on its last axis. "
            "Received shape:",
            tf.shape(inputs[name]),
        )
        for name, width in widths.items()
        if width is not None
    ]
    with tf.control_dependencies(checks):
        checked = {name: tf.identity(value) for name, value in inputs.items()}
    return {
        name: value
        if widths[name] is None
        else tf.ensure_shape(value, specs[name].shape)
        for name, value in checked.items()
    }


def checked_item_ids(item_ids: tf.Tensor) -> tf.Tensor:
    """Assert that `item_ids` is a vector, and return it."""
    return with_rank({"item_ids": item_ids}, EMBED_INPUTS)["item_ids"]


def with_rank(
    inputs: dict[str, tf.Tensor], specs: Specs
) -> dict[str, tf.Tensor]:
    """Assert ranks in the graph, since a server accepts any rank."""
    return {
        name: tf.ensure_shape(inputs[name], [None] * spec.shape.rank)
        for name, spec in specs.items()
    }


def as_long_as(first: str, shapes: dict[str, tf.Tensor]) -> list[tf.Operation]:
    """Assert that all tensors have as many rows as the first one."""
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

    `tf.debugging` would wrap each assertion in a conditional function.
    """
    return tf.raw_ops.Assert(
        condition=condition, data=[message, *data], summarize=8
    )
