"""What a tower promises of its vectors."""

import json
import math

import keras
import numpy as np
import pytest
from ranker_testing.gradients import numpy

from muse_keras.layers import SCLTower

WIDTHS = {"image": 6, "text": 3}


def tower(**kwargs):
    keras.utils.set_random_seed(5)
    return SCLTower(WIDTHS, **{"hidden_units": (8,), "output_dim": 4, **kwargs})


def features(seed=0, rows=7):
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=(rows, width)).astype("float32")
        for name, width in WIDTHS.items()
    }


def vectors(layer, given):
    return numpy(layer(given))


def unit(values):
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    return values / np.where(norms > 0, norms, 1.0)


def gelu(x):
    erf = np.vectorize(math.erf)
    return 0.5 * x * (1.0 + erf(x / np.sqrt(2.0)))


def network(layer, x):
    """A residual network from its weights, in float64."""
    linear, kernel, bias, out, out_bias = (
        numpy(w).astype("float64") for w in layer.weights
    )
    return x @ linear + gelu(x @ kernel + bias) @ out + out_bias


def test_formula():
    layer, given = tower(), features()
    given["image"][0] = 0.0
    given["text"][[0, 1]] = 0.0
    given["text"][2] = np.nan
    total = np.zeros((7, 4))
    count = np.zeros((7, 1))
    for name, values in given.items():
        real = (np.isfinite(values) & (values != 0)).any(1, keepdims=True)
        clean = np.where(real, values, 0.0).astype("float64")
        scaled = unit(clean) * np.sqrt(WIDTHS[name])
        total += real * network(layer.towers[name], scaled)
        count += real
    fused = network(layer.fusion, total / np.maximum(count, 1.0))
    expected = unit(fused) * (count > 0)
    actual = vectors(layer, given)
    np.testing.assert_allclose(actual, expected, atol=2e-6)
    assert not actual[0].any()


def test_a_missing_modality_is_left_out():
    layer, given = tower(), features()
    alone = vectors(layer, {"image": given["image"]})
    given["text"][:] = 0.0
    np.testing.assert_allclose(vectors(layer, given), alone, atol=1e-6)


def test_the_length_of_a_vector_does_not_matter():
    layer, given = tower(), features()
    expected = vectors(layer, given)
    for scale in (1e-20, 1e-3, 1e20):
        scaled = {name: values * scale for name, values in given.items()}
        np.testing.assert_allclose(vectors(layer, scaled), expected, atol=1e-5)


def test_rows_do_not_depend_on_each_other():
    layer, given = tower(), features()
    rows = [4, 1]
    part = {name: values[rows] for name, values in given.items()}
    np.testing.assert_allclose(
        vectors(layer, part), vectors(layer, given)[rows], atol=1e-6
    )


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_gives_unit_float32_vectors(dtype):
    layer, given = tower(dtype=dtype), features()
    given["image"] *= 1e6
    given["text"][0] = given["image"][0] = 0.0
    actual = vectors(layer, given)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(
        np.linalg.norm(actual, axis=1), [0.0, *[1.0] * 6], atol=1e-6
    )
    full = tower()
    for target, source in zip(full.weights, layer.weights, strict=True):
        target.assign(source)
    close = vectors(full, given)
    np.testing.assert_allclose((actual * close).sum(1)[1:], 1.0, atol=2e-3)


def token_encoder():
    return keras.Sequential(
        [
            keras.layers.Embedding(20, 5, mask_zero=True),
            keras.layers.GlobalAveragePooling1D(),
        ],
        name="tokens",
    )


def image_encoder():
    pixels = keras.Input((4, 4, 3))
    found = keras.layers.Conv2D(5, 3, activation="relu")(pixels)
    return keras.Model(pixels, keras.layers.GlobalMaxPooling2D()(found))


def test_encoders_take_raw_content_and_are_saved(tmp_path):
    rng = np.random.default_rng(3)
    given = {
        "photo": rng.random((6, 4, 4, 3)).astype("float32"),
        "title": rng.integers(1, 20, (6, 7)).astype("int32"),
    }
    given["photo"][0] = 0.0
    given["title"][[0, 1]] = 0
    layer = SCLTower(
        {"photo": 5, "title": 5},
        (8,),
        4,
        encoders={"photo": image_encoder(), "title": token_encoder()},
    )
    assert not layer.built  # The token encoder must see its input.
    expected = vectors(layer, given)
    np.testing.assert_allclose(
        np.linalg.norm(expected, axis=1), [0.0, *[1.0] * 5], atol=1e-6
    )
    photo_only = vectors(layer, {"photo": given["photo"]})
    np.testing.assert_allclose(expected[1], photo_only[1], atol=1e-6)

    again = SCLTower.from_config(json.loads(json.dumps(layer.get_config())))
    assert again.encoders["photo"].name == layer.encoders["photo"].name
    nodes = {
        "photo": keras.Input((4, 4, 3)),
        "title": keras.Input((7,), dtype="int32"),
    }
    model = keras.Model(nodes, layer(nodes))
    model.save(tmp_path / "tower.keras")
    loaded = keras.saving.load_model(tmp_path / "tower.keras")
    np.testing.assert_allclose(
        loaded.predict(given, verbose=0), expected, atol=1e-6
    )


def test_wrong_features_are_named():
    layer, given = tower(), features()
    with pytest.raises(
        ValueError, match=r"at least one of \['image', 'text'\]"
    ):
        layer({})
    with pytest.raises(ValueError, match=r"Received: \['audio', 'text'\]"):
        layer({"text": given["text"], "audio": given["text"]})
    with pytest.raises(ValueError, match="`image` must have shape"):
        layer({"image": given["text"]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modalities": {}}, "`modalities` must not be empty"),
        ({"modalities": {"a": 0}}, r"`modalities\['a'\]` must be a positive"),
        ({"hidden_units": (0,)}, "`hidden_units` must be a positive"),
        ({"output_dim": 1.5}, "`output_dim` must be a positive"),
        ({"dropout": 1.0}, "`dropout` must be a number in"),
        ({"encoders": {"b": None}}, "`encoders` must be of modalities"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SCLTower(**{"modalities": {"a": 2}, **arguments})
