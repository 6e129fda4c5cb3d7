"""A test for each part of Keras that is not public, by what it guards."""

from typing import Any

import keras
import numpy as np
import pytest

from muse_keras._keras_internals import (
    OptimizerHooks,
    ReplicaBatches,
    allow_objects,
    flattened_layers,
    keep_arrays,
)


class Recorder(keras.optimizers.SGD, OptimizerHooks):
    """SGD that writes down which hooks Keras calls."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.calls: list[str] = []

    def _clip(self, gradients: list[Any]) -> list[Any]:
        self.calls.append("clip")
        return super()._clip(gradients)

    def _decays(self, variable: Any) -> bool:
        self.calls.append("decays")
        return super()._decays(variable)

    def _is_shared(self, variable: Any) -> bool:
        self.calls.append("is shared")
        return super()._is_shared(variable)


def test_optimizer_hooks_guard_row_sparse_adam() -> None:
    """Keras calls all hooks, and they do what Keras does."""
    optimizer = Recorder(learning_rate=1.0, clipnorm=1.0, weight_decay=0.5)
    variables = [keras.Variable([2.0]), keras.Variable([4.0])]
    optimizer.build(variables)
    assert [optimizer._index_of(v) for v in variables] == [0, 1]
    gradients = [keras.ops.array([9.0]), keras.ops.array([-9.0])]
    optimizer.apply_gradients(list(zip(gradients, variables, strict=True)))
    assert {"clip", "decays"} <= set(optimizer.calls)
    on_tensorflow = keras.backend.backend() == "tensorflow"
    assert ("is shared" in optimizer.calls) == on_tensorflow
    moved = [keras.ops.convert_to_numpy(v).item() for v in variables]
    assert moved == pytest.approx([2.0 - 1.0 - 1.0, 4.0 - 2.0 + 1.0])


def test_flattened_layers_guards_the_end_of_mixed_precision() -> None:
    inner = keras.Sequential([keras.layers.Dense(1, name="inner")])
    model = keras.Sequential([keras.Input((2,)), inner])
    names = {layer.name for layer in flattened_layers(model)}
    assert {"inner", inner.name, model.name} <= names


def test_keep_arrays_guards_ids_and_indices_in_arrays() -> None:
    seen = []

    class Seen(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            keep_arrays(self)

        def call(self, ids: Any) -> Any:
            seen.append(ids)
            return keras.ops.convert_to_tensor(ids)

    ids = np.array([2**62 + 1])
    Seen()(ids)
    assert seen[-1] is ids


@pytest.mark.tf
def test_symbolic_build_guards_masks_under_a_strategy() -> None:
    """Keras takes the mean of the replicas' batches, also of booleans."""
    import tensorflow as tf

    class Masked(ReplicaBatches):
        def build(self, input_shape: Any) -> None:
            self.dense = keras.layers.Dense(1)
            self.dense.build((None, 2))

        def call(self, inputs: dict[str, Any]) -> Any:
            mask = keras.ops.cast(inputs["mask"], "float32")
            return self.dense(inputs["x"] * mask)

    calls = []
    original = keras.Model._maybe_symbolic_build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            keras.Model,
            "_maybe_symbolic_build",
            lambda *args, **kw: (calls.append(1), original(*args, **kw)),
        )
        strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
        with strategy.scope():
            model = Masked()
            model.compile("sgd", "mse")
        x = np.ones((4, 2), "float32")
        model.fit({"x": x, "mask": x > 0}, np.ones((4, 1)), verbose=0)
    assert calls


class OfAnObject(keras.layers.Layer):
    """Returns a field of what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        allow_objects(self)

    def call(self, holder: Any) -> Any:
        return holder.field


def test_allow_objects_guards_searches_and_units() -> None:
    """An object that is not a tensor reaches `call` by position."""

    class Holder:
        field = keras.ops.ones((2,))

    assert OfAnObject()(Holder()) is Holder.field
