"""Trains with checkpoints, from which a killed training resumes."""

from __future__ import annotations

import hashlib
import json
import math
import pathlib
import shutil
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from muse_keras._ops.rows import table_rows
from serving.files import dumps
from tfx_pipeline import progress
from tfx_pipeline.training import devices, divided_tables, loop

_CURVE_FILE = "curve.jsonl"


def directory_of(root: pathlib.Path, *identity: Any) -> pathlib.Path:
    """Returns the folder of a training's checkpoints.

    ``identity`` has JSON values of everything that the training depends on. The
    same values give the same folder, so that a training resumes after a crash.
    """
    text = json.dumps(list(identity), sort_keys=True)
    return root / hashlib.sha256(text.encode()).hexdigest()[:16]


def check_batch(
    option: str, batch: int, strategy: tf.distribute.Strategy
) -> None:
    """Raises `ValueError` if devices cannot share a batch evenly."""
    replicas = strategy.num_replicas_in_sync
    if batch % replicas:
        raise ValueError(
            f"{option} must be a multiple of the number of devices, "
            f"{replicas}. Received: {batch}"
        )


def count_weights(model: keras.Model) -> int:
    """Returns the number of trainable weights."""
    return sum(
        table_rows(v) * math.prod(v.shape[1:]) if len(v.shape) else 1
        for v in model.trainable_variables
    )


def fit(
    model: keras.Model,
    batches: Callable[[int], tf.data.Dataset],
    steps: int,
    *,
    directory: pathlib.Path,
    curve: pathlib.Path,
    checkpoint_steps: int,
    frozen: Iterable[keras.Variable] = (),
    callbacks: Sequence[keras.callbacks.Callback] = (),
    prepare: Callable[[Any], Any] = lambda batch: batch,
    name: str = "training",
) -> None:
    """Trains a compiled model, from the last checkpoint if there is one.

    ``batches`` returns the remaining batches after a number of steps. At the
    end, ``curve`` receives JSON lines of ``step`` and ``loss``. If
    ``checkpoint_steps`` is 0, there are no checkpoints. ``frozen`` variables do
    not change and are not saved. ``prepare`` converts each device's part of a
    batch before its step.

    All workers of a strategy call this. The chief writes; the others read
    ``directory``, and write their rows of divided tables there.

    Raises:
        RuntimeError: workers have different checkpoints or weights.
    """
    strategy = model.distribute_strategy
    worker = devices.place(strategy)
    checkpoint = TrainingCheckpoint(model, directory, frozen)
    done = checkpoint.restore()
    if worker.count > 1:
        training = zlib.crc32(directory.name.encode())
        _check_equal([training, done], strategy, directory)
        _check_equal(checkpoint.sums(), strategy, directory)

    def train(listener: keras.callbacks.Callback) -> None:
        listeners = [*callbacks, listener]
        loop.train(model, batches(done), steps - done, listeners, prepare)

    if worker.index > 0:
        if done < steps:
            train(_Saver(checkpoint, done, checkpoint_steps))
            checkpoint.save(steps)
        return
    if done:
        progress.report(f"{name} resumes at step {done:,} of {steps:,}")
    directory.mkdir(parents=True, exist_ok=True)
    # The curve is kept with the checkpoints: a resumed run continues it.
    working = directory / _CURVE_FILE
    with Recorder(
        checkpoint, working, done, steps, checkpoint_steps, name
    ) as recorder:
        if done < steps:
            train(recorder)
            # Workers hand the model over as a checkpoint.
            if checkpoint_steps or worker.count > 1:
                recorder.save(steps)
    shutil.copyfile(working, curve)


def _check_equal(
    state: Sequence[float],
    strategy: tf.distribute.Strategy,
    directory: pathlib.Path,
) -> None:
    """Raises `RuntimeError` if workers would start from different states."""
    everywhere = devices.gather(state, strategy)
    if (everywhere != everywhere[0]).any():
        raise RuntimeError(
            f"{directory}: expected the same training on all workers, from "
            f"the same checkpoint. Received: {everywhere.tolist()}; give all "
            "workers the same code, settings, files and checkpoint folder"
        )


class TrainingCheckpoint:
    """The step and all variables that a training changes.

    Tables whose rows are divided among workers are in files of their own, see
    `divided_tables`; a process that holds them whole reads these as well.
    """

    def __init__(
        self,
        model: keras.Model,
        directory: pathlib.Path,
        frozen: Iterable[keras.Variable] = (),
    ) -> None:
        # Metrics start anew; reading them would need all workers.
        left_out = {id(v) for v in (*frozen, *model.metrics_variables)}
        moving = [v for v in model.variables if id(v) not in left_out]
        self._strategy = model.distribute_strategy
        self._directory = directory
        self._variables = {
            str(place): variable
            for place, variable in enumerate(
                [*moving, *model.optimizer.variables]
            )
        }
        self._divided = {
            name: variable
            for name, variable in self._variables.items()
            if divided_tables.is_divided(variable)
        }
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._saved = 0
        self._manager = tf.train.CheckpointManager(
            self._without(self._divided), str(directory), max_to_keep=1
        )

    def _without(self, tables: Iterable[str]) -> tf.train.Checkpoint:
        others = self._variables.keys() - set(tables)
        return tf.train.Checkpoint(
            step=self._step,
            variables=[
                v.value for name, v in self._variables.items() if name in others
            ],
        )

    def restore(self) -> int:
        """Restores the last state; returns its step, 0 if there is none."""
        latest = self._manager.latest_checkpoint
        if not latest:
            return 0
        step = self._saved = int(latest.rpartition("-")[2])
        tables = divided_tables.saved(self._directory, step)
        self._without(tables).restore(latest).assert_consumed()
        with self._strategy.scope():
            for name in tables:
                divided_tables.restore(
                    self._directory, step, name, self._variables[name]
                )
        return step

    def sums(self) -> list[float]:
        """Returns the sum of each variable that all workers hold."""
        return [
            float(tf.reduce_sum(tf.cast(variable.value, tf.float64)))
            for name, variable in self._variables.items()
            if name not in self._divided
        ]

    def save(self, step: int) -> None:
        """Saves the state after a step; all workers of a strategy call this.

        A step that is saved already is not saved again.
        """
        if step == self._saved:
            return
        self._saved = step
        worker = devices.place(self._strategy)
        if self._divided:
            with self._strategy.scope():
                divided_tables.save(
                    self._directory,
                    step,
                    self._divided,
                    worker.index,
                    worker.count,
                    wait=lambda: devices.gather([step], self._strategy),
                )
        if worker.index == 0:
            self._step.assign(step)
            self._manager.save(checkpoint_number=step)
            divided_tables.remove_others(self._directory, step)


class _Saver(keras.callbacks.Callback):
    """Saves checkpoints, together with those of the other workers."""

    def __init__(
        self, checkpoint: TrainingCheckpoint, done: int, every: int
    ) -> None:
        super().__init__()
        self._checkpoint = checkpoint
        self._done = done
        self._every = every

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Saves a checkpoint after every so many steps."""
        step = self._done + batch + 1
        if self._every and step % self._every == 0:
            self._checkpoint.save(step)


class Recorder(keras.callbacks.Callback):
    """Records the loss of every step, reports progress, saves checkpoints."""

    def __init__(
        self,
        checkpoint: TrainingCheckpoint,
        curve: pathlib.Path,
        done: int,
        steps: int,
        checkpoint_steps: int,
        name: str,
    ) -> None:
        super().__init__()
        self.done = done
        self._checkpoint = checkpoint
        self._steps = steps
        self._every = checkpoint_steps
        self._name = name
        self._throttle = progress.Throttle(5)
        self._mean = 0.0
        before = curve.read_text("utf-8").splitlines() if done else []
        self._file = curve.open("w", encoding="utf-8")
        # A killed process may have written lines after its last checkpoint,
        # and an incomplete last line.
        self._file.writelines(f"{line}\n" for line in before[:done])

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Records a step."""
        # Keras logs the running mean; get the batch's loss from its change.
        mean = float((logs or {})["loss"])
        count = batch + 1
        loss = mean * count - self._mean * batch
        self._mean = mean
        step = self.done + count
        self._file.write(dumps({"step": step, "loss": loss}) + "\n")
        if self._throttle.ready() or step == self._steps:
            progress.report(
                f"{self._name} step {step:,} of {self._steps:,}, "
                f"mean loss {mean:.4f}"
            )
        if self._every and step % self._every == 0:
            self.save(step)

    def save(self, step: int) -> None:
        """Saves the curve, then a checkpoint, so that the curve has no gap."""
        self._file.flush()
        self._checkpoint.save(step)
