"""A test for each part of TFX that is not public, by what it guards."""

from typing import Any

import pytest
from tfx import v1 as tfx

from tfx_pipeline import tfx_internals as internals


class Idle(internals.BeamExecutor):
    """TFX asks for a class with a qualified name."""

    def Do(self, *arguments: Any) -> None:
        """Does nothing."""


def test_beam_executor_guards_the_joins(tmp_path: Any) -> None:
    context = internals.BeamExecutor.Context(
        beam_pipeline_args=["--runner=DirectRunner"],
        tmp_dir=str(tmp_path),
        unique_id="7",
    )
    executor = Idle(context)
    assert str(tmp_path) in executor.temporary_dir()
    with executor.beam_pipeline() as pipeline:
        assert "DirectRunner" in type(pipeline.runner).__name__


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


def test_trainer_executor_guards_the_folders_of_the_trainer() -> None:
    """TFX asks the hook for the arguments before it trains."""

    class Asked(Exception):
        pass

    class Executor(internals.TrainerExecutor):
        def fn_args(self, inputs: Any, outputs: Any, properties: Any) -> Any:
            raise Asked

    with pytest.raises(Asked):
        Executor().Do({}, {}, {})


def test_executor_specs_guard_the_components_that_replace_executors() -> None:
    spec = internals.executor_spec
    for component in (
        internals.evaluator_component.Evaluator,
        internals.pusher_component.Pusher,
        internals.validator_component.ExampleValidator,
    ):
        assert issubclass(component, internals.base_component.BaseComponent)
        assert component.EXECUTOR_SPEC.executor_class
    assert spec.ExecutorClassSpec(internals.PusherExecutor).executor_class
    assert spec.BeamExecutorSpec(internals.BeamExecutor).executor_class
    assert internals.validator_executor.DEFAULT_FILE_NAME == "SchemaDiff.pb"


def test_trainer_spec_guards_the_ranker_trainer() -> None:
    spec = internals.standard_component_specs.TrainerSpec
    assert {"examples", "transform_graph"} <= spec.INPUTS.keys()
    assert {"model", "model_run"} <= spec.OUTPUTS.keys()
    assert "custom_config" in spec.PARAMETERS


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
