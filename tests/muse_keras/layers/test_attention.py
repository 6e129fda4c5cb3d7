"""Both attentions against the formulas, and their edge cases."""

import keras
import numpy as np
import pytest
from ranker_testing import oracles
from ranker_testing.gradients import check_gradients

from muse_keras.layers import SemanticAwareTargetAttention, TargetAttention

B, C, K, E = 3, 2, 6, 8


def numpy(value):
    return keras.ops.convert_to_numpy(value)


def data(seed=0, shared=False):
    rng = np.random.default_rng(seed)
    shape = (B, K, E) if shared else (B, C, K, E)
    mask = rng.random(shape[:-1]) < 0.7
    mask[0] = False
    return {
        "target": rng.normal(size=(B, C, E)).astype("float32"),
        "behaviors": rng.normal(size=shape).astype("float32"),
        "similarities": rng.uniform(-1, 1, (B, C, K)).astype("float32"),
        "mask": mask,
    }


def randomize(layer, seed=1):
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_variables:
        weight.assign(rng.normal(size=weight.shape) * 0.5)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("semantic", [False, True])
def test_formula(shared, heads, semantic):
    inputs = data(shared=shared)
    similarities = inputs["similarities"]
    if semantic:
        layer = SemanticAwareTargetAttention(
            num_heads=heads, activation="silu", similarity_scale=10.0
        )
    else:
        layer = TargetAttention(num_heads=heads)
        del inputs["similarities"]
    layer(**inputs)
    randomize(layer)
    output, scores = (
        numpy(x) for x in layer(**inputs, return_attention_scores=True)
    )
    kernels = [
        numpy(k)
        for k in (layer.query_kernel, layer.key_kernel, layer.value_kernel)
    ]
    options = {}
    if semantic:
        options = {
            "activation": oracles.silu,
            "gamma": numpy(layer.gamma),
            "scale": float(numpy(layer.learned_scale)),
        }
    for b in range(B):
        for c in range(C):
            at = b if shared else (b, c)
            if semantic:
                options["similarities"] = similarities[b, c]
            expected, weights = oracles.attention(
                inputs["target"][b, c],
                inputs["behaviors"][at],
                kernels,
                inputs["mask"][at],
                heads,
                **options,
            )
            np.testing.assert_allclose(output[b, c], expected, atol=1e-5)
            np.testing.assert_allclose(scores[b, c], weights, atol=1e-5)


def test_gammas_start_at_one_and_the_scale_where_it_is_told():
    layer = SemanticAwareTargetAttention(num_heads=2, similarity_scale=10.0)
    layer(**data())
    np.testing.assert_array_equal(numpy(layer.gamma), np.ones((3, 2)))
    assert float(numpy(layer.learned_scale)) == 10.0
    plain = SemanticAwareTargetAttention()
    plain(**data())
    assert len(plain.weights) == 4


def test_gammas_zero_one_zero_attend_by_similarity_alone():
    inputs = data()
    layer = SemanticAwareTargetAttention()
    layer(**inputs)
    layer.gamma.assign([[0.0], [1.0], [0.0]])
    _, scores = layer(**inputs, return_attention_scores=True)
    real = np.where(inputs["mask"], np.exp(inputs["similarities"]), 0.0)
    total = np.maximum(real.sum(-1, keepdims=True), 1e-30)
    np.testing.assert_allclose(numpy(scores)[:, :, 0], real / total, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
@pytest.mark.parametrize("size", [1.0, 1e3])
def test_an_empty_history_gives_zeros(dtype, size):
    inputs = data()
    inputs["target"] *= size
    inputs["mask"][:] = False
    layer = SemanticAwareTargetAttention(dtype=dtype, similarity_scale=10.0)
    output, scores = layer(**inputs, return_attention_scores=True)
    np.testing.assert_array_equal(numpy(output), 0.0)
    np.testing.assert_array_equal(numpy(scores), 0.0)


def test_a_single_behavior_gets_all_weight():
    inputs = data()
    inputs["mask"][:] = False
    inputs["mask"][..., 3] = True
    layer = SemanticAwareTargetAttention()
    output, scores = layer(**inputs, return_attention_scores=True)
    np.testing.assert_array_equal(numpy(scores)[..., 3], 1.0)
    value = inputs["behaviors"][:, :, 3] @ numpy(layer.value_kernel)
    np.testing.assert_allclose(numpy(output), value, atol=1e-5)


def test_masked_behaviors_do_not_matter_not_even_infinite_logits():
    inputs = data()
    layer = SemanticAwareTargetAttention(dtype="mixed_float16")
    expected = numpy(layer(**inputs))
    inputs["behaviors"][~inputs["mask"]] = 100.0
    inputs["similarities"][~inputs["mask"]] = 1.0
    np.testing.assert_array_equal(numpy(layer(**inputs)), expected)
    assert np.isfinite(expected).all()


def test_shared_behaviors_equal_repeated_ones():
    inputs = data(shared=True)
    del inputs["similarities"]
    layer = TargetAttention(num_heads=2)
    shared = numpy(layer(**inputs))
    inputs["behaviors"] = np.repeat(inputs["behaviors"][:, None], C, 1)
    inputs["mask"] = np.repeat(inputs["mask"][:, None], C, 1)
    np.testing.assert_allclose(numpy(layer(**inputs)), shared, atol=1e-6)


def test_behaviors_in_another_order():
    inputs = data()
    layer = SemanticAwareTargetAttention(activation="silu")
    expected = numpy(layer(**inputs))
    order = np.random.default_rng(2).permutation(K)
    for name in ("behaviors", "similarities", "mask"):
        inputs[name] = inputs[name][:, :, order]
    np.testing.assert_allclose(numpy(layer(**inputs)), expected, atol=1e-6)


@pytest.mark.parametrize("semantic", [False, True])
def test_gradients(semantic):
    inputs = data()
    watched = ["target", "behaviors"]
    if semantic:
        layer = SemanticAwareTargetAttention(
            num_heads=2, activation="silu", similarity_scale=2.0
        )
        watched.append("similarities")
    else:
        layer = TargetAttention(num_heads=2)
        del inputs["similarities"]
    layer(**inputs)
    randomize(layer)
    check_gradients(layer, inputs, watched, np.random.default_rng(3))


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="`num_heads` must be a positive"):
        TargetAttention(num_heads=0)
    with pytest.raises(ValueError, match="multiple of `num_heads`"):
        SemanticAwareTargetAttention(num_heads=3)(**data())
    with pytest.raises(ValueError, match="`target` must have rank 2 or 3"):
        TargetAttention()(np.ones(B, "float32"), np.ones((B, K, E), "float32"))
    with pytest.raises(ValueError, match="`behaviors` must have rank 3"):
        TargetAttention()(
            np.ones((B, E), "float32"), np.ones((B, C, K, E), "float32")
        )


@pytest.mark.parametrize("cls", [TargetAttention, SemanticAwareTargetAttention])
def test_one_candidate_a_request_is_a_list_of_one(cls):
    inputs = data(shared=True)
    if cls is TargetAttention:
        del inputs["similarities"]
    layer = cls(num_heads=2)
    layer(**inputs)
    randomize(layer)
    expected, weights = layer(**inputs, return_attention_scores=True)
    for c in range(C):
        one = dict(inputs, target=inputs["target"][:, c])
        if "similarities" in one:
            one["similarities"] = inputs["similarities"][:, c]
        output, scores = layer(**one, return_attention_scores=True)
        np.testing.assert_allclose(
            numpy(output), numpy(expected)[:, c], atol=1e-6
        )
        np.testing.assert_allclose(
            numpy(scores), numpy(weights)[:, c], atol=1e-6
        )
