"""Selects the devices of a training and the part of each worker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from muse_keras._ops.replicas import gather_over_replicas
from muse_keras.tensorflow import internals
from tfx_pipeline.training import records


def choose_strategy() -> tf.distribute.Strategy:
    """Returns a strategy over all visible GPUs, or over the CPU."""
    if len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def join_workers() -> tf.distribute.Strategy:
    """Returns a strategy over the devices of all workers in ``TF_CONFIG``.

    Call it before any other use of TensorFlow's runtime. It waits for the
    other workers.
    """
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    internals.create_without_broadcast(strategy)
    return strategy


def place(strategy: tf.distribute.Strategy) -> records.Shard:
    """Returns this worker's index among the workers, the chief's being 0."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return records.WHOLE
    resolver = strategy.cluster_resolver
    cluster = resolver.cluster_spec().as_dict()
    tasks = [
        (kind, index)
        for kind in ("chief", "worker")
        for index in range(len(cluster.get(kind, [])))
    ]
    own = tasks.index((resolver.task_type, resolver.task_id))
    return records.Shard(own, len(tasks))


def share(shards: int, strategy: tf.distribute.Strategy) -> list[records.Shard]:
    """Returns the shards that this worker reads.

    Raises:
        ValueError: workers cannot share them evenly.
    """
    own = place(strategy)
    if shards % own.count:
        raise ValueError(
            "trainer.shards must be a multiple of the number of workers, "
            f"{own.count}. Received: {shards}"
        )
    each = shards // own.count
    first = own.index * each
    return [records.Shard(i, shards) for i in range(first, first + each)]


def gather(
    values: Sequence[float], strategy: tf.distribute.Strategy
) -> npt.NDArray[np.float64]:
    """Returns the values of all devices, float64 (devices, values)."""

    @tf.function(autograph=False)
    def run() -> tf.Tensor:
        own = tf.constant([values], tf.float64)
        return strategy.run(lambda: gather_over_replicas(own))

    return strategy.experimental_local_results(run())[0].numpy()
