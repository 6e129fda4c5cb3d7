"""What makes a training resumable: checkpoints, and the curve beside them."""

from __future__ import annotations

import hashlib
import json
import pathlib
import shutil
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from serving.files import dumps
from tfx_pipeline import progress

__all__ = [
    "Curves",
    "SaveCheckpoints",
    "TrainingCheckpoint",
    "directory_of",
]


def directory_of(root: pathlib.Path, *identity: Any) -> pathlib.Path:
    """Returns the folder of a training's checkpoints.

    The same inputs and settings find the same folder after a crash, others
    find another one.

    Args:
        root: folder of all trainings.
        identity: what tells this training from others, as JSON values.
    """
    text = json.dumps(list(identity), sort_keys=True)
    return root / hashlib.sha256(text.encode()).hexdigest()[:16]


class TrainingCheckpoint:
    """State of a training run: everything that moves, and the step.

    Args:
        model: a built model.
        optimizer: its optimiser, built.
        directory: of the checkpoints of this very training.
        frozen: variables of the model that never move and are not saved.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        directory: pathlib.Path,
        frozen: Iterable[keras.Variable] = (),
    ) -> None:
        left_out = {id(variable) for variable in frozen}
        moving = [v for v in model.variables if id(v) not in left_out]
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._checkpoint = tf.train.Checkpoint(
            step=self._step,
            variables=[v.value for v in (*moving, *optimizer.variables)],
        )
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, str(directory), max_to_keep=1
        )

    def restore(self) -> int:
        """Returns the steps done before, 0 for a fresh run."""
        if not self._manager.latest_checkpoint:
            return 0
        self._checkpoint.restore(
            self._manager.latest_checkpoint
        ).assert_consumed()
        return int(self._step.numpy())

    def save(self, step: int) -> None:
        """Saves the state after a step."""
        self._step.assign(step)
        self._manager.save(checkpoint_number=step)


class SaveCheckpoints(keras.callbacks.Callback):
    """Saves a checkpoint every so many steps.

    Args:
        checkpoint: what to save.
        curves: the curve of the same training.
        done: steps that were done before.
        every: steps between two checkpoints.
    """

    def __init__(
        self,
        checkpoint: TrainingCheckpoint,
        curves: Curves,
        done: int,
        every: int,
    ) -> None:
        super().__init__()
        self._checkpoint = checkpoint
        self._curves = curves
        self._done = done
        self._every = every

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Saves when it is time."""
        step = self._done + batch + 1
        if step % self._every == 0:
            # First the curve: what is resumed must not have a gap.
            self._curves.flush()
            self._checkpoint.save(step)


class Curves(keras.callbacks.Callback):
    """Keeps the loss of every step and says how training goes.

    Args:
        path: JSON lines of ``step`` and ``loss`` to write by `publish`.
        working_dir: folder of the checkpoints, where the file grows.
        done: steps that were done before.
        steps: all steps of the training.
        name: what is trained, for the lines of progress.
    """

    def __init__(
        self,
        path: pathlib.Path,
        working_dir: pathlib.Path,
        done: int,
        steps: int,
        name: str = "training",
    ) -> None:
        super().__init__()
        self._path = path
        self._done = done
        self._steps = steps
        self._name = name
        self._throttle = progress.Throttle(5)
        working_dir.mkdir(parents=True, exist_ok=True)
        # Lives beside the checkpoints, so that a resumed run continues it.
        self._working = working_dir / path.name
        kept = [line for line in self._read() if line["step"] <= done]
        self._file = self._working.open("w", encoding="utf-8")
        for line in kept:
            self._write(line)
        self._mean = 0.0

    def _read(self) -> list[dict[str, Any]]:
        if not self._working.exists():
            return []
        lines = self._working.read_text(encoding="utf-8").splitlines()
        complete = [line for line in lines if line.endswith("}")]
        return [json.loads(line) for line in complete]

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(dumps(line) + "\n")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Writes the step's loss."""
        # Keras logs the running mean; its difference is the batch's loss.
        mean = float((logs or {})["loss"])
        count = batch + 1
        loss = mean * count - self._mean * batch
        self._mean = mean
        step = self._done + count
        self._write({"step": step, "loss": loss})
        if self._throttle.ready() or step == self._steps:
            self._file.flush()
            progress.report(
                f"{self._name} step {step:,} of {self._steps:,}, "
                f"mean loss {mean:.4f}"
            )

    def flush(self) -> None:
        """Writes out what is known so far."""
        self._file.flush()

    def publish(self) -> None:
        """Moves the curve to its place."""
        self._file.close()
        shutil.copyfile(self._working, self._path)
