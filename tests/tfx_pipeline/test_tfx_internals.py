"""A test for each part of TFX that is not public, by what it guards."""

from typing import Any

import pytest
from tfx import v1 as tfx
from tfx.dsl.components.base import base_beam_executor

from tfx_pipeline import tfx_internals as internals


class Executor(base_beam_executor.BaseBeamExecutor):
    """As TFX makes one for a component that runs on Beam."""

    def Do(self, input_dict, output_dict, exec_properties):  # noqa: N802
        pass


def test_pusher_executor_guards_what_the_verdict_reads() -> None:
    executor = internals.PusherExecutor()
    pushed = tfx.types.standard_artifacts.PushedModel()
    executor.mark_pushed(pushed, "/models/3", "3")
    read = pushed.get_string_custom_property
    assert pushed.get_int_custom_property("pushed") == 1
    assert read("pushed_destination") == "/models/3"
    assert read("pushed_version") == "3"
    executor.mark_not_pushed(pushed)
    assert pushed.get_int_custom_property("pushed") == 0


def test_the_pipeline_of_an_evaluator_guards_its_shuffle_files() -> None:
    context = base_beam_executor.BaseBeamExecutor.Context(
        beam_pipeline_args=["--runner=PrismRunner"], tmp_dir="", unique_id="1"
    )
    made = internals.EvaluatorExecutor(context).make_pipeline()
    assert type(made.runner).__name__ == "PrismRunner"


def test_executor_specs_guard_the_components_that_replace_executors() -> None:
    spec = internals.executor_spec
    for component in (
        internals.evaluator_component.Evaluator,
        internals.pusher_component.Pusher,
        internals.validator_component.ExampleValidator,
    ):
        assert component.EXECUTOR_SPEC.executor_class
    assert spec.ExecutorClassSpec(internals.PusherExecutor).executor_class
    assert internals.validator_executor.DEFAULT_FILE_NAME == "SchemaDiff.pb"


def test_helpers_guard_the_executors(tmp_path: Any) -> None:
    artifact = tfx.types.standard_artifacts.Examples()
    artifact.uri = str(tmp_path)
    utils = internals.artifact_utils
    artifact.split_names = utils.encode_split_names(["train", "eval"])
    assert utils.decode_split_names(artifact.split_names) == ["train", "eval"]
    assert utils.get_single_instance([artifact]) is artifact
    uri = utils.get_split_uri([artifact], "train")
    assert uri == str(tmp_path / "Split-train")
    formats = internals.example_gen_pb2.PayloadFormat
    internals.examples_utils.set_payload_format(
        artifact, formats.FORMAT_TF_EXAMPLE
    )
    assert (
        internals.examples_utils.get_payload_format(artifact)
        == formats.FORMAT_TF_EXAMPLE
    )
    destination = internals.pusher_pb2.PushDestination()
    internals.proto_utils.json_to_proto(
        '{"filesystem": {"base_directory": "/models"}}', destination
    )
    assert destination.filesystem.base_directory == "/models"
    assert internals.path_utils.serving_model_dir("/x").startswith("/x/")
    assert internals.json_utils.loads(internals.json_utils.dumps([1])) == [1]


def test_run_options_guard_partial_runs() -> None:
    options = internals.RunOptions(to_nodes=["Transform"])
    assert options.to_nodes == ["Transform"]


@pytest.mark.parametrize("runner", ["DirectRunner", "DataflowRunner"])
def test_dependency_flags_guard_executors(runner: str) -> None:
    """TFX would add a package of its own, without this project."""
    internals.send_no_package_to_workers()

    context = Executor.Context(
        beam_pipeline_args=[f"--runner={runner}"], tmp_dir="", unique_id=""
    )
    given = Executor(context)._beam_pipeline_args
    assert given[0] == f"--runner={runner}"
    assert "package" not in " ".join(given)
