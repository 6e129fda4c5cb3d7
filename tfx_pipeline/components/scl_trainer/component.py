"""Specification of SCLTrainer."""

from __future__ import annotations

from typing import Any

from tfx_pipeline import features
from tfx_pipeline.components.artifacts import ItemContentArtifact
from tfx_pipeline.components.scl_trainer import executor
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

__all__ = ["SCLTrainer", "SCLTrainerSpec"]


class SCLTrainerSpec(types.ComponentSpec):
    """TFX's TrainerSpec and one more input."""

    PARAMETERS = standard_component_specs.TrainerSpec.PARAMETERS
    INPUTS = {
        **standard_component_specs.TrainerSpec.INPUTS,
        "item_content": ChannelParameter(type=ItemContentArtifact),
    }
    OUTPUTS = standard_component_specs.TrainerSpec.OUTPUTS
    TYPE_ANNOTATION = standard_component_specs.TrainerSpec.TYPE_ANNOTATION


class SCLTrainer(base_component.BaseComponent):
    """Trains the tower that embeds items, on searches and item content.

    Args:
        examples: Examples of search events, splits ``train`` and ``eval``.
        item_content: `ItemContentArtifact`.
        run_fn: import path of the training function.
        custom_config: passed to it; ``item_content`` and ``checkpoint_dir``
            are added.
    """

    SPEC_CLASS = SCLTrainerSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        examples: types.BaseChannel,
        item_content: types.BaseChannel,
        run_fn: str,
        custom_config: dict[str, Any],
    ) -> None:
        super().__init__(
            spec=SCLTrainerSpec(
                examples=examples,
                item_content=item_content,
                train_args=trainer_pb2.TrainArgs(splits=[features.TRAIN_SPLIT]),
                eval_args=trainer_pb2.EvalArgs(splits=[features.EVAL_SPLIT]),
                run_fn=run_fn,
                custom_config=json_utils.dumps(custom_config),
                model=types.Channel(type=standard_artifacts.Model),
                model_run=types.Channel(type=standard_artifacts.ModelRun),
            )
        )
