"""What every layer must be able to do."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops


def flat(outputs: Any) -> list[Any]:
    return [x for x in keras.tree.flatten(outputs) if x is not None]


def check_layer(
    cls: type,
    arguments: dict[str, Any],
    inputs: dict[str, Any],
    folder: Path,
    call: dict[str, Any] | None = None,
    half_tolerance: float = 2e-2,
) -> None:
    """Run the shared checks on one layer.

    Args:
        cls: the layer's class.
        arguments: of its constructor.
        inputs: call arguments by name, arrays or dicts of them, batch first.
        folder: where to save.
        call: further call arguments.
        half_tolerance: largest difference under `mixed_float16`.
    """
    call = call or {}
    layer = cls(**arguments, name="checked")
    results = flat(layer(**inputs, **call))
    expected = [ops.convert_to_numpy(x) for x in results]
    for array in expected:
        assert np.isfinite(array.astype("float64")).all()

    check_config(layer, arguments)
    check_spec(layer, inputs, call, results)
    twin = cls.from_config(layer.get_config())
    twin(**inputs, **call)
    assert [w.shape for w in twin.weights] == [w.shape for w in layer.weights]
    model = check_symbolic(layer, inputs, call, expected)
    check_saving(model, inputs, expected, folder / "layer.keras")
    check_mixed_precision(layer, inputs, call, expected, half_tolerance)
    check_fit(cls, arguments, inputs, call)


def check_config(layer: Any, arguments: dict[str, Any]) -> None:
    config = layer.get_config()
    for name, value in arguments.items():
        assert config[name] == value, name
    again = type(layer).from_config(json.loads(json.dumps(config)))
    assert again.get_config() == config
    stored = keras.saving.serialize_keras_object(layer)
    assert stored["registered_name"] == f"muse_keras>{type(layer).__name__}"
    assert type(keras.saving.deserialize_keras_object(stored)) is type(layer)


def symbols(inputs: dict[str, Any]) -> dict[str, Any]:
    return keras.tree.map_structure(
        lambda array: keras.Input(array.shape[1:], dtype=str(array.dtype)),
        inputs,
    )


def check_spec(layer: Any, inputs: Any, call: Any, results: list[Any]) -> None:
    spec = flat(layer.compute_output_spec(**symbols(inputs), **call))
    assert len(spec) == len(results)
    for promised, actual in zip(spec, results, strict=True):
        shape = tuple(actual.shape)
        assert tuple(promised.shape)[1:] == shape[1:]
        dtype = keras.backend.standardize_dtype(actual.dtype)
        assert promised.dtype == dtype


def check_symbolic(
    layer: Any, inputs: Any, call: Any, expected: list[np.ndarray]
) -> Any:
    nodes = symbols(inputs)
    model = keras.Model(nodes, flat(layer(**nodes, **call)))
    compare(model.predict(inputs, verbose=0), expected)
    return model


def compare(actual: Any, expected: list[np.ndarray]) -> None:
    actual = flat(actual)
    assert len(actual) == len(expected)
    for left, right in zip(actual, expected, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)


def check_saving(model: Any, inputs: Any, expected: Any, path: Path) -> None:
    model.save(path)
    again = keras.saving.load_model(path)
    compare([ops.convert_to_numpy(x) for x in flat(again(inputs))], expected)
    for left, right in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(left), ops.convert_to_numpy(right)
        )


def check_mixed_precision(
    layer: Any, inputs: Any, call: Any, expected: Any, tolerance: float
) -> None:
    config = {**layer.get_config(), "dtype": "mixed_float16", "name": "half"}
    half = type(layer).from_config(config)
    half(**inputs, **call)
    for target, source in zip(half.weights, layer.weights, strict=True):
        assert target.dtype == source.dtype
        target.assign(source)
    for left, right in zip(flat(half(**inputs, **call)), expected, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(left).astype("float32"),
            right,
            rtol=tolerance,
            atol=tolerance,
        )


def check_fit(cls: type, arguments: Any, inputs: Any, call: Any) -> None:
    keras.utils.set_random_seed(0)
    layer = cls(**arguments)
    nodes = symbols(inputs)
    output = flat(layer(**nodes, **call))[0]
    if not layer.trainable_variables:
        return
    model = keras.Model(nodes, output)
    # Adam: a step is visible in float32 whatever the size of a gradient.
    # On TensorFlow without a graph: `check_symbolic` has run one.
    model.compile(
        keras.optimizers.Adam(1e-2),
        "mse",
        jit_compile=False,
        run_eagerly=keras.backend.backend() == "tensorflow",
    )
    before = [ops.convert_to_numpy(w).copy() for w in layer.trainable_variables]
    rng = np.random.default_rng(0)
    batch = len(keras.tree.flatten(inputs)[0])
    shape = (batch, *tuple(output.shape)[1:])
    model.fit(inputs, rng.normal(size=shape), epochs=1, verbose=0)
    for old, variable in zip(before, layer.trainable_variables, strict=True):
        new = ops.convert_to_numpy(variable)
        assert np.isfinite(new).all(), variable.path
        assert (new != old).any(), variable.path
