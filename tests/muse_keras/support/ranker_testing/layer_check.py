"""What every layer must be able to do."""

import inspect
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

ON_JAX = keras.backend.backend() == "jax"
# Sizes that only the number of candidates and behaviors have in the tests.
LENGTHS = (3, 5, 9, 40)
# What a history is of; without any of it the results are zeros.
HISTORY = ("behaviors", "similarities", "negatives")
PER_BEHAVIOR = "mask|similarities|norms|same_item|ages"


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
    check_integers(cls, arguments)
    check_refusals(cls, arguments, inputs, call)
    if set(HISTORY) & set(inputs):
        check_empty_history(layer, inputs, call)
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


def of_numpy(value: Any) -> Any:
    """The same with NumPy's integers."""
    return keras.tree.map_structure(
        lambda leaf: np.int64(leaf) if type(leaf) is int else leaf, value
    )


def check_integers(cls: type, arguments: dict[str, Any]) -> None:
    """NumPy's integers are integers, in the config too; True is none."""
    signature = inspect.signature(cls.__init__).parameters
    every = {
        name: parameter.default
        for name, parameter in signature.items()
        if type(parameter.default) in (int, tuple)
    } | arguments
    config = cls(**every).get_config()
    assert json.loads(
        json.dumps(cls(**of_numpy(every), name=config["name"]).get_config())
    ) == json.loads(json.dumps(config))
    for name, value in every.items():
        leaves = keras.tree.flatten(value)
        if not leaves or any(type(leaf) is not int for leaf in leaves):
            continue
        wrong = keras.tree.map_structure(lambda leaf: True, value)
        with pytest.raises(ValueError, match=f"`{name}.*integer.*True"):
            cls(**{**every, name: wrong})


def check_refusals(cls: type, arguments: Any, inputs: Any, call: Any) -> None:
    """What does not fit is refused by name, in calls and symbolic calls."""
    arrays = keras.tree.flatten_with_path(inputs)
    names = [str(path[-1]) for path, _ in arrays]
    message = "|".join(f"`{name}`" for name in names)
    for name, (_, array) in zip(names, arrays, strict=True):
        wrong = []
        if len(names) > 1:
            wrong += [array[:-1], array[..., None, None]]
            if re.search(f"ids|{PER_BEHAVIOR}", name):
                wrong.append(array[..., :-1])
        if name.endswith(("rows", "ids")):
            wrong.append(array.astype("float32"))
        elif array.dtype != bool:
            wrong.append(np.sign(array).astype("int32"))
        for bad in wrong:
            changed = keras.tree.map_structure(
                lambda leaf, old=array, new=bad: new if leaf is old else leaf,
                inputs,
            )
            symbolic = keras.tree.map_structure(
                lambda leaf: keras.KerasTensor(leaf.shape, str(leaf.dtype)),
                changed,
            )
            layer = cls(**arguments)
            for called, given in (
                (layer, changed),
                (layer.compute_output_spec, symbolic),
                (cls(**arguments), symbolic),
            ):
                with pytest.raises(ValueError, match=message):
                    called(**given, **call)


def check_empty_history(layer: Any, inputs: Any, call: Any) -> None:
    """A history of length 0 gives zeros; on JAX, which compiles, its shape."""
    empty = dict(inputs)
    for name, array in inputs.items():
        if name in ("behaviors", "negatives"):
            empty[name] = array[..., :0, :]
        elif re.search(PER_BEHAVIOR, name):
            empty[name] = array[..., :0]
    if ON_JAX:
        import jax

        assert jax.eval_shape(lambda: flat(layer(**empty, **call)))
        return
    for result in flat(layer(**empty, **call)):
        np.testing.assert_array_equal(ops.convert_to_numpy(result), 0.0)


def symbols(inputs: dict[str, Any], static: bool = True) -> dict[str, Any]:
    return keras.tree.map_structure(
        lambda array: keras.Input(
            [
                size if static or size not in LENGTHS else None
                for size in array.shape[1:]
            ],
            dtype=str(array.dtype),
        ),
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
    # On JAX step by step, which is compiled already; `check_fit` compiles all.
    predict = model if ON_JAX else partial(model.predict, verbose=0)
    compare([ops.convert_to_numpy(x) for x in flat(predict(inputs))], expected)
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
    """Trains where only widths are known, with a smaller last batch."""
    keras.utils.set_random_seed(0)
    layer = cls(**arguments)
    nodes = symbols(inputs, static=False)
    output = ops.cast(flat(layer(**nodes, **call))[0], "float32")
    output = keras.layers.Dense(1)(ops.expand_dims(output, -1))
    model = keras.Model(nodes, output)
    # Adam: a step is visible in float32 whatever the size of a gradient.
    # On JAX compiled as a whole, once: op by op it would take a minute, and
    # it knows all sizes anyway.
    model.compile(keras.optimizers.Adam(1e-2), "mse", jit_compile=ON_JAX)
    before = [ops.convert_to_numpy(w).copy() for w in layer.trainable_variables]
    rng = np.random.default_rng(0)
    target = rng.normal(size=flat(layer(**inputs, **call))[0].shape)
    size = 4 if ON_JAX else 3
    model.fit(inputs, target[..., None], batch_size=size, verbose=0)
    for old, variable in zip(before, layer.trainable_variables, strict=True):
        new = ops.convert_to_numpy(variable)
        assert np.isfinite(new).all(), variable.path
        assert (new != old).any(), variable.path
