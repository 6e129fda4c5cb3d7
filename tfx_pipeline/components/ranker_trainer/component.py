"""Specification of RankerTrainer."""

from __future__ import annotations

from typing import Any

from tfx_pipeline.components.artifacts import ItemTableArtifact
from tfx_pipeline.components.ranker_trainer import executor
from tfx_pipeline.tfx_internals import (
    ChannelParameter,
    base_component,
    executor_spec,
    json_utils,
    standard_artifacts,
    standard_component_specs,
    trainer_pb2,
    types,
)

__all__ = ["RankerTrainer", "RankerTrainerSpec"]


class RankerTrainerSpec(types.ComponentSpec):
    """TFX's TrainerSpec and one more input."""

    PARAMETERS = standard_component_specs.TrainerSpec.PARAMETERS
    INPUTS = {
        **standard_component_specs.TrainerSpec.INPUTS,
        "item_table": ChannelParameter(type=ItemTableArtifact),
    }
    OUTPUTS = standard_component_specs.TrainerSpec.OUTPUTS
    TYPE_ANNOTATION = standard_component_specs.TrainerSpec.TYPE_ANNOTATION


class RankerTrainer(base_component.BaseComponent):
    """Trains a ranker on transformed requests and an item table.

    Args:
        examples: transformed Examples.
        transform_graph: output of Transform.
        item_table: `ItemTableArtifact`.
        run_fn: import path of the training function.
        custom_config: passed to it; ``item_table`` and ``checkpoint_dir`` are
            added.
    """

    SPEC_CLASS = RankerTrainerSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        examples: types.BaseChannel,
        transform_graph: types.BaseChannel,
        item_table: types.BaseChannel,
        run_fn: str,
        custom_config: dict[str, Any],
    ) -> None:
        super().__init__(
            spec=RankerTrainerSpec(
                examples=examples,
                transform_graph=transform_graph,
                item_table=item_table,
                train_args=trainer_pb2.TrainArgs(splits=["train"]),
                eval_args=trainer_pb2.EvalArgs(splits=["eval"]),
                run_fn=run_fn,
                custom_config=json_utils.dumps(custom_config),
                model=types.Channel(type=standard_artifacts.Model),
                model_run=types.Channel(type=standard_artifacts.ModelRun),
            )
        )
