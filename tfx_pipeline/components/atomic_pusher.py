"""Pusher that creates the version folder atomically.

TFX's Pusher copies file by file into the folder that a server polls, so that a
server could find an incomplete model.
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

from serving import model_storage
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
    """Pushes a model if all its blessings are positive."""

    def Do(
        self,
        input_dict: dict[str, list],
        output_dict: dict[str, list],
        exec_properties: dict[str, Any],
    ) -> None:
        """Copies the model to the next version folder.

        ``models_configs`` in ``custom_config`` lists models for ``muse serve``:
        by the name of a file, which is written beside the version, it has base
        directories by model name. ``storage`` is a URL of object storage, to
        which the version is copied first; servers of a cluster take it from
        there (``muse models pull``).
        """
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not self.CheckBlessing(input_dict):
            self.mark_not_pushed(pushed)
            return
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(
            exec_properties["push_destination"], destination
        )
        custom_config = (
            json_utils.loads(exec_properties.get("custom_config", "null")) or {}
        )
        path = push(
            pathlib.Path(self.GetModelPath(input_dict)),
            pathlib.Path(destination.filesystem.base_directory),
            custom_config.get("storage", ""),
        )
        files = custom_config.get("models_configs", {})
        for name, models in files.items():
            write_models_config(path.with_name(name), models)
        self.mark_pushed(pushed, str(path), path.name)
        logging.info("Model pushed to %s.", path)


def push(
    model: pathlib.Path, base: pathlib.Path, storage: str = ""
) -> pathlib.Path:
    """Copies a SavedModel to a new version folder of a serving directory.

    The folder is renamed to its number when it is complete. The number is the
    time in seconds, but at least one more than the newest version. If there is
    a URL `storage`, the version is copied there first.
    """
    base.mkdir(parents=True, exist_ok=True)
    stored = model_storage.stored_versions(storage) if storage else []
    newest = max([*stored, *find_versions(base)], default=0)
    version = max(int(time.time()), newest + 1)
    if storage:
        model_storage.store_version(model, storage, version)
    copy = base / f".{version}.tmp"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(model, copy)
    target = base / str(version)
    os.rename(copy, target)
    return target


def write_models_config(path: pathlib.Path, models: Mapping[str, str]) -> None:
    """Writes a ``models.config`` for ``muse serve`` atomically.

    Its paths are relative to the file, so that the folder can be copied.
    TensorFlow Serving needs absolute paths; ``serving/tf_serving`` has such
    files.
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
    """Pushes atomically to a local serving directory."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)
