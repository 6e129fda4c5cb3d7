"""The layers in pure JAX functions: one compiled training step.

On the JAX backend a layer has a stateless form: weights go in, outputs and
new weights come out, and `jax.jit` and `jax.value_and_grad` apply.

    KERAS_BACKEND=jax python examples/jax_training_step.py
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import keras
import sample_data
from keras import layers, ops
from sample_data import DIM, LENGTH

from muse_keras.layers import GSUTopK, SemanticAwareTargetAttention, SimTier


def build() -> keras.Model:
    """Scores by content alone: vectors (B, C, D), histories (B, L, D)."""
    candidates = keras.Input((None, DIM), name="candidates")
    history = keras.Input((LENGTH, DIM), name="history")
    found = GSUTopK(k=10)(candidates, history)
    behaviors = ops.take_along_axis(
        ops.expand_dims(history, 1),
        ops.expand_dims(found.indices, 3),
        axis=2,
    )
    interest = SemanticAwareTargetAttention(key_dim=16)(
        candidates, behaviors, found.similarities, found.mask
    )
    tiers = SimTier()(found.similarities, found.mask)
    features = layers.concatenate([candidates, interest, tiers])
    hidden = layers.Dense(32, "relu")(features)
    logits = layers.Dense(1)(hidden)[..., 0]
    return keras.Model([candidates, history], logits)


def main() -> None:
    """Trains and tests."""
    keras.utils.set_random_seed(0)
    vectors = sample_data.item_vectors()
    model, optimizer = build(), keras.optimizers.Adam(3e-3)
    optimizer.build(model.trainable_variables)

    def loss_of(weights, frozen, inputs, clicks):
        logits, _ = model.stateless_call(weights, frozen, inputs)
        return jnp.mean(jax.nn.softplus(logits) - clicks * logits), logits

    @jax.jit
    def step(weights, frozen, state, inputs, clicks):
        gradient = jax.value_and_grad(loss_of, has_aux=True)
        (loss, logits), slopes = gradient(weights, frozen, inputs, clicks)
        weights, state = optimizer.stateless_apply(state, slopes, weights)
        return weights, state, loss, logits

    def batch(seed: int):
        features, clicks = sample_data.requests(200, seed)
        rows = features["candidate_rows"], features["behavior_rows"]
        return [vectors[row] for row in rows], clicks

    weights = [variable.value for variable in model.trainable_variables]
    frozen = [variable.value for variable in model.non_trainable_variables]
    state = [variable.value for variable in optimizer.variables]
    for number in range(61):
        inputs, clicks = batch(number)
        # The logits are those before the step, of requests never seen.
        weights, state, loss, logits = step(
            weights, frozen, state, inputs, clicks
        )
        if number % 20 == 0:
            auc = sample_data.auc(clicks, logits)
            print(f"step {number}: loss {float(loss):.3f}, AUC {auc:.3f}")
    for variable, value in zip(model.trainable_variables, weights, strict=True):
        variable.assign(value)  # the model holds what was learned


if __name__ == "__main__":
    main()
