"""All uses of TFX in this project beyond its public API, `tfx.v1`.

Custom components need base classes and helpers that `tfx.v1` does not have.
They may change with a release of TFX, so
tests/tfx_pipeline/test_tfx_internals.py tests each of them. Other modules
import these names from here and call no private method of TFX.
"""

import apache_beam as beam
from tfx import types
from tfx.components.evaluator import component as evaluator_component
from tfx.components.evaluator import executor as evaluator_executor
from tfx.components.example_validator import component as validator_component
from tfx.components.example_validator import executor as validator_executor
from tfx.components.pusher import component as pusher_component
from tfx.components.pusher import executor as pusher_executor
from tfx.components.util import examples_utils
from tfx.dsl.compiler import compiler, constants
from tfx.dsl.components.base import executor_spec
from tfx.orchestration import metadata
from tfx.orchestration.local import runner_utils
from tfx.orchestration.pipeline import RunOptions
from tfx.orchestration.portable import launcher, runtime_parameter_utils
from tfx.proto import example_gen_pb2, pusher_pb2
from tfx.proto.orchestration import pipeline_pb2
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.artifact import Artifact, Property, PropertyType
from tfx.utils import dependency_utils, json_utils, path_utils, proto_utils

__all__ = [
    "Artifact",
    "EvaluatorExecutor",
    "Property",
    "PropertyType",
    "PusherExecutor",
    "RunOptions",
    "artifact_utils",
    "compiler",
    "evaluator_component",
    "example_gen_pb2",
    "examples_utils",
    "executors_of",
    "executor_spec",
    "json_utils",
    "launch",
    "path_utils",
    "pipeline_pb2",
    "proto_utils",
    "pusher_component",
    "pusher_pb2",
    "send_no_package_to_workers",
    "set_run_id",
    "standard_artifacts",
    "types",
    "validator_component",
    "validator_executor",
]


class EvaluatorExecutor(evaluator_executor.Executor):
    """Evaluator that shows on which runner it works."""

    def make_pipeline(self) -> beam.Pipeline:
        """Returns an empty pipeline with the options of the evaluation."""
        return self._make_beam_pipeline()


class PusherExecutor(pusher_executor.Executor):
    """Pusher that records whether and where it pushed."""

    def mark_pushed(self, artifact: Artifact, path: str, version: str) -> None:
        """Records in ``pushed_model`` the target of the push."""
        self._MarkPushed(
            artifact, pushed_destination=path, pushed_version=version
        )

    def mark_not_pushed(self, artifact: Artifact) -> None:
        """Records in ``pushed_model`` that nothing was pushed."""
        self._MarkNotPushed(artifact)


def set_run_id(graph: pipeline_pb2.Pipeline, run_id: str) -> None:
    """Makes a compiled pipeline the one of a run."""
    runtime_parameter_utils.substitute_runtime_parameter(
        graph, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: run_id}
    )


def executors_of(graph: pipeline_pb2.Pipeline) -> set[str]:
    """Returns the nodes of a compiled pipeline that have an executor."""
    deployment = pipeline_pb2.IntermediateDeploymentConfig()
    graph.deployment_config.Unpack(deployment)
    return {*deployment.executor_specs}


def launch(
    graph: pipeline_pb2.Pipeline,
    node: pipeline_pb2.PipelineNode,
    connection: metadata.ConnectionConfigType,
) -> None:
    """Runs a node of a compiled pipeline, as the local runner does."""
    deployment = runner_utils.extract_local_deployment_config(graph)
    name = node.node_info.id
    launcher.Launcher(
        pipeline_node=node,
        mlmd_connection=metadata.Metadata(connection),
        pipeline_info=graph.pipeline_info,
        pipeline_runtime_spec=graph.runtime_spec,
        executor_spec=runner_utils.extract_executor_spec(deployment, name),
        custom_driver_spec=runner_utils.extract_custom_driver_spec(
            deployment, name
        ),
    ).launch()


def send_no_package_to_workers() -> None:
    """Prevents TFX from packing its source for each executor with Beam.

    Local workers do not need the package, and others need an image (or an
    environment) that has this project as well. A second call has no effect.
    """
    dependency_utils.make_beam_dependency_flags = lambda beam_args: beam_args
