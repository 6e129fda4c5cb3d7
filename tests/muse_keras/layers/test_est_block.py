"""EST's block against loops in NumPy, and what it may depend on."""

import numpy as np
import pytest
from keras import ops

from muse_keras.layers import ESTBlock
from muse_keras.layers.est_block import content_neighbors

B, C, T, R, K, W = 2, 3, 4, 5, 6, 8
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def numpy(value):
    return ops.convert_to_numpy(value)


def inputs(seed=0):
    rng = np.random.default_rng(seed)

    def floats(*shape):
        return rng.normal(size=shape).astype("float32")

    def mask(*shape):
        found = rng.random(shape) < 0.7
        found[1] = False
        return found

    return [
        floats(B, C, T, W),
        floats(B, R, W),
        floats(B, C, K, W),
        mask(B, R),
        mask(B, C, K),
        np.abs(floats(B, R, R)),
        np.abs(floats(B, C, K, K)),
    ]


def made(seed=0):
    block = ESTBlock(T)
    block.build((B, C, T, W))
    rng = np.random.default_rng(seed)
    for weight in block.weights:
        weight.assign(rng.normal(size=weight.shape) * 0.5)
    return block


def normed(x, norm):
    centered = x - x.mean(-1, keepdims=True)
    scaled = centered / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return scaled * numpy(norm.gamma) + numpy(norm.beta)


def silu(x):
    return x / (1 + np.exp(-x))


def test_against_numpy():
    block = made()
    tokens, user, found, user_mask, found_mask, near, own_near = inputs()
    result = [numpy(x) for x in block(*inputs())]
    kernel = {
        name: numpy(getattr(block, f"{name}_kernel")).astype("float64")
        for name in ("query", "key", "value", "output", "token_in")
        + ("token_out", "behavior_in", "behavior_out")
    }
    norm, of_behaviors, norm_2, of_behaviors_2 = block.norms
    for b in range(B):
        u = normed(user[b], of_behaviors)
        moved = user[b] + near[b] @ u
        after = moved + (
            silu(normed(moved, of_behaviors_2) @ kernel["behavior_in"])
            @ kernel["behavior_out"]
        )
        np.testing.assert_allclose(result[1][b], after, **CLOSE)
        for c in range(C):
            o = normed(found[b, c], of_behaviors)
            both = np.concatenate([u, o])
            real = np.concatenate([user_mask[b], found_mask[b, c]])
            moved = found[b, c] + own_near[b, c] @ o
            after = moved + (
                silu(normed(moved, of_behaviors_2) @ kernel["behavior_in"])
                @ kernel["behavior_out"]
            )
            np.testing.assert_allclose(result[2][b, c], after, **CLOSE)
            for t in range(T):
                query = normed(tokens[b, c, t], norm) @ kernel["query"][t]
                logits = both @ kernel["key"] @ query / np.sqrt(W)
                weights = np.where(real, np.exp(logits - logits.max()), 0)
                weights = weights / max(weights.sum(), 1e-30)
                np.testing.assert_allclose(result[3][b, c, t], weights, **CLOSE)
                token = tokens[b, c, t] + (
                    weights @ (both @ kernel["value"]) @ kernel["output"][t]
                )
                token = token + (
                    silu(normed(token, norm_2) @ kernel["token_in"][t])
                    @ kernel["token_out"][t]
                )
                np.testing.assert_allclose(result[0][b, c, t], token, **CLOSE)
    # A user without behaviors: nothing to attend to.
    assert not result[3][1].any()


def test_a_candidate_does_not_see_another_and_masked_is_not_seen():
    block = made(1)
    given = inputs(1)
    first = [numpy(x) for x in block(*given)]
    changed = [x.copy() for x in given]
    changed[0][:, 1] += 1
    changed[2][:, 1] += 1
    changed[2][~given[4]] = 9
    changed[1][~given[3]] = -9
    again = [numpy(x) for x in block(*changed)]
    np.testing.assert_allclose(again[0][:, 0], first[0][:, 0], **CLOSE)
    np.testing.assert_allclose(again[3][:, 2], first[3][:, 2], **CLOSE)
    assert not np.allclose(again[0][0, 1], first[0][0, 1])


def test_what_does_not_fit_is_named():
    given = inputs()
    given[4] = given[4][:, :, :-1]
    with pytest.raises(ValueError, match="found_mask"):
        made()(*given)


def test_the_configuration_round_trips():
    block = ESTBlock(3, expansion=4)
    assert ESTBlock.from_config(block.get_config()).expansion == 4


@pytest.mark.parametrize("count", [2, 5])
def test_neighbors_are_the_nearest_others(count):
    rng = np.random.default_rng(count)
    codes = rng.integers(-127, 128, (3, 7, 4)).astype("int8")
    codes[0, 2] = 0
    codes[1, 3] = codes[1, 4]
    mask = rng.random((3, 7)) < 0.8
    mask[2, 1:] = False
    found = numpy(content_neighbors(ops.convert_to_tensor(codes), mask, count))
    for b in range(3):
        units = codes[b] / np.maximum(
            np.linalg.norm(codes[b].astype(float), axis=1, keepdims=True), 1e-9
        )
        real = mask[b] & codes[b].any(axis=1)
        for i in range(7):
            others = [j for j in range(7) if real[i] and real[j] and j != i]
            others.sort(key=lambda j: (-round(units[i] @ units[j], 6), j))
            nearest = others[:count]
            expected = np.zeros(7)
            expected[nearest] = 1 / max(len(nearest), 1)
            np.testing.assert_allclose(found[b, i], expected, atol=1e-6)
