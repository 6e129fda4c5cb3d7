"""The queue against a list, in order, around the end and after a reload."""

import keras
import numpy as np
import pytest
from ranker_testing.gradients import numpy

from muse_keras.layers import MemoryBank

DIM = 3


def keys(rng, count):
    return rng.normal(size=(count, DIM)).astype("float32")


def check(bank, newest):
    """The bank holds exactly these (key, id) pairs, oldest first."""
    held, ids, mask = (numpy(x) for x in bank.contents())
    assert mask.sum() == len(newest)
    position = int(bank.position)
    order = [(position + step) % bank.size for step in range(bank.size)]
    order = [row for row in order if mask[row]]
    assert ids[order].tolist() == [item for _, item in newest]
    if newest:
        np.testing.assert_array_equal(held[order], [key for key, _ in newest])


@pytest.mark.parametrize("size", [1, 5, 8])
def test_order_wrap_around_and_large_batches(size):
    rng = np.random.default_rng(size)
    bank, queue, item = MemoryBank(size, DIM), [], 0
    check(bank, queue)
    for count in (2, 3, 1, 4, 8, 5, 13, 0, 2):
        batch = keys(rng, count)
        ids = np.arange(item + 1, item + count + 1)
        item += count
        bank.enqueue(batch, ids)
        queue = [*queue, *zip(batch, ids.tolist(), strict=True)][-size:]
        check(bank, queue)


def test_zero_keys_are_not_real():
    bank = MemoryBank(4, DIM)
    bank.enqueue(np.array([[0, 0, 0], [0, 1, 0]], "float32"), np.array([7, 8]))
    assert numpy(bank.contents()[2]).tolist() == [False, True, False, False]


def test_contents_do_not_change_afterwards():
    bank = MemoryBank(2, DIM)
    before, ids, _ = bank.contents()
    bank.enqueue(np.ones((2, DIM), "float32"), np.array([7, 8]))
    assert not numpy(before).any()
    assert not numpy(ids).any()


def test_reload_goes_on_where_it_stopped(tmp_path):
    class Holder(keras.Model):
        def __init__(self):
            super().__init__()
            self.bank = MemoryBank(5, DIM)
            self.built = True

    rng = np.random.default_rng(0)
    one, two = Holder(), Holder()
    first, second = keys(rng, 4), keys(rng, 3)
    one.bank.enqueue(first, np.arange(4))
    one.save_weights(tmp_path / "bank.weights.h5")
    two.load_weights(tmp_path / "bank.weights.h5")
    for model in (one, two):
        model.bank.enqueue(second, np.arange(10, 13))
    for left, right in zip(
        one.bank.contents(), two.bank.contents(), strict=True
    ):
        np.testing.assert_array_equal(numpy(left), numpy(right))
    assert int(one.bank.position) == int(two.bank.position) == 2


def test_ids_of_another_backend_are_not_cut():
    bank = MemoryBank(2, DIM)
    store = {
        "keys": np.ones((2, DIM), "float32"),
        "ids": np.array([1, 2**40]),
        "position": np.array(1, "int32"),
    }
    ids = np.array([2**40 + 1, -(2**40)])
    if keras.backend.backend() == "jax":
        with pytest.raises(ValueError, match="`ids` must fit 32 bits"):
            bank.load_own_variables(store)
        with pytest.raises(ValueError, match="`ids` must fit 32 bits"):
            bank.enqueue(store["keys"], ids)
        return
    bank.load_own_variables(store)
    assert numpy(bank.ids).tolist() == [1, 2**40]
    bank.enqueue(store["keys"], ids)
    assert sorted(numpy(bank.ids).tolist()) == sorted(ids.tolist())


def test_weights_are_neither_trained_nor_halved():
    bank = MemoryBank(4, DIM, dtype="mixed_float16")
    assert not bank.trainable_weights
    bank.enqueue(np.full((1, DIM), 1.0001, "float16"), np.array([3]))
    assert keras.backend.standardize_dtype(bank.keys.dtype) == "float32"
    again = MemoryBank.from_config(bank.get_config())
    assert (again.size, again.dim) == (4, DIM)


@pytest.mark.parametrize("name", ["size", "dim"])
def test_bad_arguments_are_named(name):
    with pytest.raises(ValueError, match=f"`{name}` must be a positive"):
        MemoryBank(**{"size": 3, "dim": 3, name: 0})


@pytest.mark.tf
def test_in_a_graph_with_batches_of_any_size():
    import tensorflow as tf

    eager, graph = MemoryBank(6, DIM), MemoryBank(6, DIM)
    enqueue = tf.function(
        graph.enqueue,
        input_signature=[
            tf.TensorSpec([None, DIM], "float32"),
            tf.TensorSpec([None], "int64"),
        ],
    )
    rng = np.random.default_rng(2)
    for count in (4, 9, 1, 5):
        batch, ids = keys(rng, count), rng.integers(0, 2**60, count)
        eager.enqueue(batch, ids)
        enqueue(tf.constant(batch), tf.constant(ids))
    for left, right in zip(eager.contents(), graph.contents(), strict=True):
        np.testing.assert_array_equal(numpy(left), numpy(right))
