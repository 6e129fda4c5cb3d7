"""The training loop of one device, several devices and several workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from muse_keras._ops.replicas import mean_over_replicas


def train(
    model: keras.Model,
    batches: tf.data.Dataset,
    steps: int,
    callbacks: Sequence[keras.callbacks.Callback],
    prepare: Callable[[Any], Any],
) -> None:
    """Trains a compiled model for ``steps`` batches, as one epoch.

    `keras.Model.fit` fails under `tf.distribute.MultiWorkerMirroredStrategy`.
    ``batches`` are those of this worker; its devices share each one evenly.
    ``prepare`` converts the batch of a device before its step.
    """
    dataset = on_devices(batches, model.distribute_strategy)
    step = compiled_step(model, dataset.element_spec, prepare)
    listeners = keras.callbacks.CallbackList(list(callbacks), model=model)
    model.reset_metrics()
    listeners.on_train_begin()
    listeners.on_epoch_begin(0)
    logs: dict[str, float] = {}
    for number, batch in zip(range(steps), dataset, strict=False):
        listeners.on_train_batch_begin(number)
        logs = {name: float(value) for name, value in step(batch).items()}
        listeners.on_train_batch_end(number, logs)
    listeners.on_epoch_end(0, logs)
    listeners.on_train_end(logs)


def compiled_step(
    model: keras.Model, spec: Any, prepare: Callable[[Any], Any]
) -> Callable[[Any], dict[str, tf.Tensor]]:
    """Returns a step on all devices, which returns the model's metrics.

    ``spec`` describes batches: with their widths open from the start, the step
    is traced only once.
    """
    strategy = model.distribute_strategy

    def device_step(batch: Any) -> dict[str, tf.Tensor]:
        return mean_over_replicas(model.train_step(prepare(batch)))

    @tf.function(input_signature=[spec], autograph=False)
    def step(batch: Any) -> dict[str, tf.Tensor]:
        logs = strategy.run(device_step, args=(batch,))
        return {
            name: strategy.experimental_local_results(value)[0]
            for name, value in logs.items()
        }

    return step


def on_devices(
    batches: tf.data.Dataset, strategy: tf.distribute.Strategy
) -> Any:
    """Returns a worker's batches, each split evenly over its devices."""
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return batches

    def split(context: tf.distribute.InputContext) -> tf.data.Dataset:
        devices = replicas // context.num_input_pipelines
        rows = tf.nest.flatten(batches.element_spec)[0].shape[0]
        return batches if devices == 1 else batches.rebatch(rows // devices)

    return strategy.distribute_datasets_from_function(split)
