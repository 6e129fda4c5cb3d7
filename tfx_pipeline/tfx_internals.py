"""All that this project uses of TFX beyond its public API, `tfx.v1`.

A custom component needs base classes and helpers that `tfx.v1` does not have.
They may change with a release of TFX; tests/tfx_pipeline/test_tfx_internals.py
holds a test for each, named after what it guards. Other modules import these
names from here, and call no private method of TFX.
"""

from typing import Any

from tfx import types
from tfx.components.evaluator import component as evaluator_component
from tfx.components.evaluator import executor as evaluator_executor
from tfx.components.example_validator import component as validator_component
from tfx.components.example_validator import executor as validator_executor
from tfx.components.pusher import component as pusher_component
from tfx.components.pusher import executor as pusher_executor
from tfx.components.trainer import executor as trainer_executor
from tfx.components.trainer import fn_args_utils
from tfx.components.util import examples_utils
from tfx.dsl.compiler import compiler
from tfx.dsl.components.base import (
    base_beam_component,
    base_beam_executor,
    base_component,
    base_executor,
    executor_spec,
)
from tfx.orchestration.pipeline import RunOptions
from tfx.proto import example_gen_pb2, pusher_pb2, trainer_pb2
from tfx.types import (
    artifact_utils,
    standard_artifacts,
    standard_component_specs,
)
from tfx.types.artifact import Artifact, Property, PropertyType
from tfx.types.component_spec import ChannelParameter, ExecutionParameter
from tfx.utils import json_utils, path_utils, proto_utils

__all__ = [
    "Artifact",
    "BeamExecutor",
    "ChannelParameter",
    "ExecutionParameter",
    "Property",
    "PropertyType",
    "PusherExecutor",
    "RunOptions",
    "TrainerExecutor",
    "artifact_utils",
    "base_beam_component",
    "base_component",
    "base_executor",
    "compiler",
    "evaluator_component",
    "evaluator_executor",
    "example_gen_pb2",
    "examples_utils",
    "executor_spec",
    "fn_args_utils",
    "json_utils",
    "path_utils",
    "proto_utils",
    "pusher_component",
    "pusher_pb2",
    "standard_artifacts",
    "standard_component_specs",
    "trainer_pb2",
    "types",
    "validator_component",
    "validator_executor",
]

Artifacts = dict[str, list]


class BeamExecutor(base_beam_executor.BaseBeamExecutor):
    """Executor that runs Beam."""

    def beam_pipeline(self) -> Any:
        """Returns a Beam pipeline with the options of the run."""
        return self._make_beam_pipeline()

    def temporary_dir(self) -> str:
        """Returns the execution's temporary directory."""
        return self._get_tmp_dir()


class PusherExecutor(pusher_executor.Executor):
    """Pusher that says where it pushed, or that it did not."""

    def mark_pushed(self, artifact: Artifact, path: str, version: str) -> None:
        """Records in ``pushed_model`` where the model was pushed to."""
        self._MarkPushed(
            artifact, pushed_destination=path, pushed_version=version
        )

    def mark_not_pushed(self, artifact: Artifact) -> None:
        """Records in ``pushed_model`` that nothing was pushed."""
        self._MarkNotPushed(artifact)


class TrainerExecutor(trainer_executor.GenericExecutor):
    """Trainer whose ``fn_args`` a subclass may change."""

    def fn_args(
        self, inputs: Artifacts, outputs: Artifacts, properties: dict[str, Any]
    ) -> fn_args_utils.FnArgs:
        """Returns what the training function is given."""
        return super()._GetFnArgs(inputs, outputs, properties)

    def _GetFnArgs(
        self,
        input_dict: Artifacts,
        output_dict: Artifacts,
        exec_properties: dict[str, Any],
    ) -> fn_args_utils.FnArgs:
        return self.fn_args(input_dict, output_dict, exec_properties)
