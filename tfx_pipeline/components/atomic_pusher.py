"""Pusher whose version folder appears all at once.

TFX's Pusher copies file by file into the folder that a server polls. A server
that looks in the middle finds half a model.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import time
from collections.abc import Mapping
from typing import Any

from absl import logging
from google.protobuf import text_format

from serving.files import find_versions, write_text
from tfx_pipeline.tfx_internals import (
    PusherExecutor,
    artifact_utils,
    executor_spec,
    json_utils,
    proto_utils,
    pusher_component,
    pusher_pb2,
)


class Executor(PusherExecutor):
    """Pushes a model that is blessed by every blessing it was given."""

    def Do(
        self,
        input_dict: dict[str, list],
        output_dict: dict[str, list],
        exec_properties: dict[str, Any],
    ) -> None:
        """Copies the model to the next version folder.

        To list models for ``muse serve``, ``custom_config`` has
        ``models_configs``: the base directories by model name, by the name of
        the file to write beside the version.
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
        custom_config = json_utils.loads(
            exec_properties.get("custom_config", "null")
        )
        files = (custom_config or {}).get("models_configs", {})
        for name, models in files.items():
            write_models_config(path.with_name(name), models)
        self.mark_pushed(pushed, str(path), path.name)
        logging.info("Model pushed to %s.", path)


def push(model: pathlib.Path, base: pathlib.Path) -> pathlib.Path:
    """Copies a SavedModel to a new version folder of a serving directory.

    The folder gets its number by a rename when it is complete. The number is
    the time in seconds, or one more than the newest version.
    """
    base.mkdir(parents=True, exist_ok=True)
    version = max([int(time.time()), *(v + 1 for v in find_versions(base))])
    copy = base / f".{version}.tmp"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(model, copy)
    target = base / str(version)
    os.rename(copy, target)
    return target


def write_models_config(path: pathlib.Path, models: Mapping[str, str]) -> None:
    """Writes a ``models.config`` for ``muse serve``, all at once.

    Paths are relative to it, so that the folder may be copied. TensorFlow
    Serving needs absolute ones: ``serving/tf_serving`` has its files.
    """
    from tensorflow_serving.config import model_server_config_pb2

    config = model_server_config_pb2.ModelServerConfig()
    for name, folder in models.items():
        model = config.model_config_list.config.add()
        model.name = name
        model.base_path = os.path.relpath(folder, path.parent)
        model.model_platform = "tensorflow"
        model.model_version_policy.latest.num_versions = 1
    write_text(path, text_format.MessageToString(config))


class AtomicPusher(pusher_component.Pusher):
    """Pusher to a local serving directory, atomic."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)
