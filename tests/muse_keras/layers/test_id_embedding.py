"""The embedding table of ids."""

import keras
import numpy as np
import pytest

from muse_keras.layers import IdEmbedding
from muse_keras.tables.array_blocks import CHUNK_ROWS


def test_rows_are_read_and_rows_outside_a_tensor_read_row_zero():
    layer = IdEmbedding(5, 2)
    layer.build()
    table = np.arange(10, dtype="float32").reshape(5, 2)
    layer.embeddings.assign(table)
    rows = np.array([[4, 0, -1], [5, 2, 2**31 - 1]], "int32")
    with pytest.raises(ValueError, match=r"`rows` must be in \[0, 5\).*-1"):
        layer(rows)
    result = layer(keras.ops.convert_to_tensor(rows))
    result = keras.ops.convert_to_numpy(result)
    expected = table[[[4, 0, 0], [0, 2, 0]]]
    np.testing.assert_array_equal(result, expected)


def test_the_table_is_marked_and_stays_float32():
    layer = IdEmbedding(5, 2, dtype="mixed_float16")
    result = layer(np.array([1], "int32"))
    assert layer.embeddings.row_sparse
    assert layer.embeddings.dtype == "float32"
    assert keras.backend.standardize_dtype(result.dtype) == "float16"


@pytest.mark.tf
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_the_gradient_is_a_list_of_rows(dtype):
    import tensorflow as tf

    layer = IdEmbedding(50, 2, dtype=dtype)
    layer.build()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.cast(layer(tf.constant([3, 3, 7])), "float32"))
    gradient = tape.gradient(loss, layer.embeddings.value)
    assert isinstance(gradient, tf.IndexedSlices)
    assert gradient.indices.numpy().tolist() == [3, 3, 7]


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="`num_rows` must be a positive"):
        IdEmbedding(0, 2)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow draws in blocks"
)
def test_a_large_table_is_drawn_in_blocks_that_differ():
    rows = CHUNK_ROWS + 100

    def drawn(**options):
        layer = IdEmbedding(rows, 2, **options)
        layer.build()
        return np.asarray(layer.embeddings)

    uniform = keras.initializers.RandomUniform(seed=7)
    table = drawn(embeddings_initializer=uniform)
    first = np.asarray(uniform((CHUNK_ROWS, 2)))
    np.testing.assert_array_equal(table[:CHUNK_ROWS], first)
    # The second block is neither zero nor the first once more.
    assert (table[CHUNK_ROWS:] != 0).any(axis=1).all()
    assert (table[CHUNK_ROWS:] != first[:100]).all(axis=1).mean() > 0.99
    again = drawn(
        embeddings_initializer=keras.initializers.RandomUniform(seed=7)
    )
    np.testing.assert_array_equal(table, again)
    assert (drawn(embeddings_initializer="ones") == 1).all()


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow draws in blocks"
)
def test_a_large_table_may_be_built_by_the_first_traced_call():
    import tensorflow as tf

    layer = IdEmbedding(CHUNK_ROWS + 10, 2)
    call = tf.function(layer)
    first = call(tf.constant([CHUNK_ROWS + 3])).numpy()
    assert (first != 0).all()
    layer.embeddings.assign(np.ones(layer.embeddings.shape))
    # It is drawn when it is built and never again.
    assert (call(tf.constant([CHUNK_ROWS + 3])).numpy() == 1).all()
