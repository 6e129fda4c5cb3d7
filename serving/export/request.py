"""The tensors of a ranking request, and what is asserted about them.

Sizes are declared None: TensorFlow Serving does not enforce declared sizes
while its graph optimiser believes them. They are asserted inside instead, and
a failed assertion reaches the client as INVALID_ARGUMENT with the text below.
"""

import tensorflow as tf

NUM_PROFILE_FIELDS = 5

RANK_INPUTS = {
    "user_id": tf.TensorSpec([None], tf.int64, name="user_id"),
    "user_profile": tf.TensorSpec([None, None], tf.int64, name="user_profile"),
    "behavior_item_ids": tf.TensorSpec(
        [None, None], tf.int64, name="behavior_item_ids"
    ),
    "behavior_category_ids": tf.TensorSpec(
        [None, None], tf.int64, name="behavior_category_ids"
    ),
    "candidate_item_ids": tf.TensorSpec(
        [None, None], tf.int64, name="candidate_item_ids"
    ),
}
EMBED_INPUTS = {"item_ids": tf.TensorSpec([None], tf.int64, name="item_ids")}
EXAMPLES = tf.TensorSpec([None], tf.string, name="examples")


def checked_rank_inputs(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Assert the sizes of a request.

    Only shapes are looked at, so that the checks stay on the host and never
    wait for the ids.

    Args:
        inputs: int64 tensors, names and ranks as in `RANK_INPUTS`.

    Returns:
        The same tensors, to be used after the assertions.
    """
    inputs = _with_rank(inputs, RANK_INPUTS)
    batch = tf.shape(inputs["user_id"])[0]
    shapes = {name: tf.shape(value) for name, value in inputs.items()}
    checks = [
        require(
            tf.equal(shapes[name][0], batch),
            f"`{name}` must have as many requests as `user_id`. "
            f"Received shapes of `{name}` and `user_id`:",
            shapes[name],
            shapes["user_id"],
        )
        for name in inputs
        if name != "user_id"
    ]
    profile = shapes["user_profile"]
    checks.append(
        require(
            tf.equal(profile[1], NUM_PROFILE_FIELDS),
            f"`user_profile` must have shape [B, {NUM_PROFILE_FIELDS}]. "
            "Received shape:",
            profile,
        )
    )
    checks.append(
        require(
            tf.equal(
                shapes["behavior_category_ids"][1],
                shapes["behavior_item_ids"][1],
            ),
            "`behavior_category_ids` must be as long as `behavior_item_ids`. "
            "Received shapes:",
            shapes["behavior_category_ids"],
            shapes["behavior_item_ids"],
        )
    )
    with tf.control_dependencies(checks):
        return {name: tf.identity(value) for name, value in inputs.items()}


def checked_item_ids(item_ids: tf.Tensor) -> tf.Tensor:
    """Assert that `item_ids` is a vector, and return it."""
    return _with_rank({"item_ids": item_ids}, EMBED_INPUTS)["item_ids"]


def _with_rank(
    inputs: dict[str, tf.Tensor], specs: dict[str, tf.TensorSpec]
) -> dict[str, tf.Tensor]:
    """Check ranks when the graph runs; a server lets any rank in."""
    return {
        name: tf.ensure_shape(inputs[name], spec.shape)
        for name, spec in specs.items()
    }


def require(
    condition: tf.Tensor, message: str, *data: tf.Tensor
) -> tf.Operation:
    """Return an assertion.

    `tf.debugging` would wrap each one in a conditional function.
    """
    return tf.raw_ops.Assert(
        condition=condition, data=[message, *data], summarize=8
    )
