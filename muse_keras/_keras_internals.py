"""All that this project uses of Keras beyond its public API.

Any of it may change with a release of Keras; tests/muse_keras/
test_keras_internals.py holds a test for each, named after what it guards.
"""

from collections.abc import Iterable, Iterator
from itertools import compress
from typing import Any

import keras

__all__ = [
    "OptimizerHooks",
    "ReplicaBatches",
    "allow_objects",
    "flattened_layers",
    "keep_arrays",
]


def allow_objects(layer: keras.layers.Layer) -> None:
    """Lets a layer's `call` take objects that are not tensors by position."""
    layer._allow_non_tensor_positional_args = True


def keep_arrays(layer: keras.layers.Layer) -> None:
    """Hands NumPy arrays to a layer's `call` as they are.

    Keras would make tensors of them first: of another dtype, and too late to
    look into on the host.
    """
    layer._convert_input_args = False
    allow_objects(layer)


def flattened_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yields a model and all layers in it, those of layers included."""
    yield from model._flatten_layers()


class OptimizerHooks(keras.optimizers.Optimizer):
    """An optimizer that treats some variables in its own way."""

    def _index_of(self, variable: Any) -> int:
        """Returns the place of a variable among those it was built with."""
        return self._get_variable_index(variable)

    def _clip(self, gradients: list[Any]) -> list[Any]:
        """Returns gradients clipped as the constructor's arguments say."""
        return super()._clip_gradients(gradients)

    def _decays(self, variable: Any) -> bool:
        return super()._use_weight_decay(variable)

    def _is_shared(self, variable: Any) -> bool:
        """Tells whether all replicas hold the same values of a variable."""
        return True

    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        return self._clip(grads)

    def _use_weight_decay(self, variable: Any) -> bool:
        return self._decays(variable)

    def _all_reduce_sum_gradients(
        self, grads_and_vars: Iterable[tuple[Any, Any]]
    ) -> list[tuple[Any, Any]]:
        """Sums the gradients of shared variables over replicas."""
        pairs = [*grads_and_vars]
        shared = [self._is_shared(variable) for _, variable in pairs]
        summed = iter(
            super()._all_reduce_sum_gradients([*compress(pairs, shared)])
        )
        return [
            next(summed) if is_shared else pair
            for pair, is_shared in zip(pairs, shared, strict=True)
        ]


class ReplicaBatches(keras.Model):
    """A model whose batches hold masks and ids, under `tf.distribute`."""

    def _maybe_symbolic_build(
        self, iterator: Any = None, data_batch: Any = None
    ) -> None:
        """Build metrics from the shapes of a batch, before `fit` on replicas.

        Keras's TensorFlow trainer takes the mean of the replicas' batches to
        learn their shapes, which has no meaning for boolean masks and fails.
        The first replica's batch has the same shapes.
        """
        if iterator is not None and self._distribute_strategy is not None:
            local = self.distribute_strategy.experimental_local_results
            for _, _, batches in iterator:
                data_batch = keras.tree.map_structure(
                    lambda value: local(value)[0], next(batches)
                )
                break
            iterator = None
        super()._maybe_symbolic_build(iterator, data_batch)
