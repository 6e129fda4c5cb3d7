"""Gradients of a layer on any backend, and by finite differences."""

from typing import Any

import keras
import numpy as np
from keras import ops


def numpy(value: Any) -> np.ndarray:
    return ops.convert_to_numpy(value)


def loss_of(layer: Any, inputs: dict[str, Any], weights: Any, **call: Any):
    """Sum of the first output times fixed weights."""
    output = layer(**inputs, **call)
    if isinstance(output, tuple):
        output = output[0]
    return ops.sum(ops.cast(output, "float32") * weights)


def gradients(
    layer: Any,
    inputs: dict[str, np.ndarray],
    watched: list[str],
    weights: np.ndarray,
    **call: Any,
) -> list[np.ndarray]:
    """Gradients for the layer's weights, then for the inputs watched."""
    backend = keras.backend.backend()
    variables = layer.trainable_variables
    if backend == "tensorflow":
        import tensorflow as tf

        tensors = {k: tf.convert_to_tensor(v) for k, v in inputs.items()}
        with tf.GradientTape() as tape:
            for name in watched:
                tape.watch(tensors[name])
            loss = loss_of(layer, tensors, weights, **call)
        sources = [v.value for v in variables]
        sources += [tensors[name] for name in watched]
        results = tape.gradient(loss, sources)
        return [tf.convert_to_tensor(g).numpy() for g in results]
    if backend == "torch":
        tensors = {k: ops.convert_to_tensor(v) for k, v in inputs.items()}
        for name in watched:
            tensors[name] = tensors[name].detach().requires_grad_()
        layer.zero_grad()
        loss_of(
            layer, tensors, ops.convert_to_tensor(weights), **call
        ).backward()
        sources = [v.value for v in variables]
        sources += [tensors[name] for name in watched]
        return [source.grad.detach().numpy() for source in sources]
    import jax

    others = {k: v for k, v in inputs.items() if k not in watched}
    frozen = [v.value for v in layer.non_trainable_variables]

    def function(values, floats):
        output, _ = layer.stateless_call(
            values,
            frozen,
            **others,
            **dict(zip(watched, floats, strict=True)),
            **call,
        )
        if isinstance(output, tuple):
            output = output[0]
        return ops.sum(ops.cast(output, "float32") * weights)

    by_weight, by_input = jax.grad(function, argnums=(0, 1))(
        [v.value for v in variables], [inputs[name] for name in watched]
    )
    return [np.asarray(g) for g in [*by_weight, *by_input]]


def check_gradients(
    layer: Any,
    inputs: dict[str, np.ndarray],
    watched: list[str],
    rng: np.random.Generator,
    step: float = 1e-2,
    directions: int = 4,
    tolerance: float = 2e-2,
    **call: Any,
) -> None:
    """Compare directional derivatives with central differences."""
    output = layer(**inputs, **call)
    if isinstance(output, tuple):
        output = output[0]
    weights = rng.normal(size=tuple(output.shape)).astype("float32")
    analytic = gradients(layer, inputs, watched, weights, **call)
    state = [numpy(v) for v in layer.non_trainable_variables]

    def value() -> float:
        for variable, kept in zip(
            layer.non_trainable_variables, state, strict=True
        ):
            variable.assign(kept)
        result = layer(**inputs, **call)
        if isinstance(result, tuple):
            result = result[0]
        result = numpy(result).astype(np.float64)
        return float((result * weights.astype(np.float64)).sum())

    checked = 0
    places: list[Any] = [*layer.trainable_variables, *watched]
    assert len(places) == len(analytic)
    for place, gradient in zip(places, analytic, strict=True):
        name = place if isinstance(place, str) else place.path
        for _ in range(directions):
            direction = rng.normal(size=gradient.shape)
            direction /= np.linalg.norm(direction) or 1.0
            values = []
            for sign in (1.0, -1.0):
                move = (sign * step * direction).astype("float32")
                if isinstance(place, str):
                    before = inputs[place]
                    inputs[place] = before + move
                    values.append(value())
                    inputs[place] = before
                else:
                    before = numpy(place).copy()
                    place.assign(before + move)
                    values.append(value())
                    place.assign(before)
            numeric = (values[0] - values[1]) / (2.0 * step)
            expected = float((gradient * direction).sum())
            scale = max(1.0, float(np.linalg.norm(gradient)))
            assert abs(numeric - expected) <= tolerance * scale, (
                f"{name}: {numeric} by differences, {expected} by gradient"
            )
            checked += 1
    assert checked
