"""Arguments of a `run_fn` that trains from a table, with checkpoints."""

from __future__ import annotations

import pathlib
from typing import Any

from tfx_pipeline.tfx_internals import (
    TrainerExecutor,
    artifact_utils,
    fn_args_utils,
)
from tfx_pipeline.training import checkpoints

__all__ = ["CheckpointedTrainer"]


class CheckpointedTrainer(TrainerExecutor):
    """Runs `run_fn` with the folder of an input and a checkpoint folder.

    A subclass names the input, which TFX's own executor does not know. In
    `custom_config`, `run_fn` finds the folder under the input's name, and
    `checkpoint_dir`, which depends on everything that the training depends
    on: a training that was cut off goes on, another begins anew.
    """

    INPUT: str
    """Name of the input."""
    FOLDER: str
    """Folder inside its artifact."""

    def _identity(
        self, folder: pathlib.Path, fn_args: fn_args_utils.FnArgs
    ) -> tuple[Any, ...]:
        """What the training depends on, besides settings and examples."""
        raise NotImplementedError

    def fn_args(
        self,
        inputs: dict[str, list],
        outputs: dict[str, list],
        properties: dict[str, Any],
    ) -> fn_args_utils.FnArgs:
        """Returns TFX's arguments with the two folders."""
        artifact = artifact_utils.get_single_instance(inputs[self.INPUT])
        others = {k: v for k, v in inputs.items() if k != self.INPUT}
        fn_args = super().fn_args(others, outputs, properties)
        folder = pathlib.Path(artifact.uri) / self.FOLDER
        settings = dict(fn_args.custom_config)
        root = pathlib.Path(settings.pop("checkpoint_root"))
        checkpoint_dir = checkpoints.directory_of(
            root,
            settings,
            sorted(fn_args.train_files),
            *self._identity(folder, fn_args),
        )
        fn_args.custom_config = {
            **settings,
            self.INPUT: str(folder),
            "checkpoint_dir": str(checkpoint_dir),
        }
        return fn_args
