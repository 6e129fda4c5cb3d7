"""Pusher whose version folder appears all at once.

TFX's Pusher copies file by file into the folder that a server polls. A server
that looks in the middle finds half a model.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import time
from typing import Any

from absl import logging

from tfx_pipeline.tfx_internals import (
    PusherExecutor,
    artifact_utils,
    executor_spec,
    proto_utils,
    pusher_component,
    pusher_pb2,
)

__all__ = ["AtomicPusher", "Executor", "push"]


class Executor(PusherExecutor):
    """Pushes a model that is blessed by every blessing it was given."""

    def Do(
        self,
        input_dict: dict[str, list],
        output_dict: dict[str, list],
        exec_properties: dict[str, Any],
    ) -> None:
        """Copies the model to the next version folder.

        Args:
            input_dict: ``model`` and, when configured, ``model_blessing`` and
                ``infra_blessing``.
            output_dict: ``pushed_model``.
            exec_properties: ``push_destination``.
        """
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not self.CheckBlessing(input_dict):
            self.mark_not_pushed(pushed)
            return
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(
            exec_properties["push_destination"], destination
        )
        path = push(
            pathlib.Path(self.GetModelPath(input_dict)),
            pathlib.Path(destination.filesystem.base_directory),
        )
        self.mark_pushed(pushed, str(path), path.name)
        logging.info("Model pushed to %s.", path)


def push(model: pathlib.Path, base: pathlib.Path) -> pathlib.Path:
    """Copies a SavedModel to a new version folder of a serving directory.

    The folder gets its number by a rename when it is complete. The number is
    the time in seconds, or one more than the newest version.

    Args:
        model: SavedModel directory.
        base: directory that the server polls.

    Returns:
        The version folder.
    """
    base.mkdir(parents=True, exist_ok=True)
    versions = [int(p.name) for p in base.iterdir() if p.name.isdigit()]
    version = max([int(time.time()), *(v + 1 for v in versions)])
    copy = base / f".{version}.tmp"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(model, copy)
    target = base / str(version)
    os.rename(copy, target)
    return target


class AtomicPusher(pusher_component.Pusher):
    """Pusher to a local serving directory, atomic."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)
