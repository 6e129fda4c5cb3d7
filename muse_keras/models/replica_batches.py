"""Training on replicas with batches of any dtype."""

from typing import Any

import keras


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
