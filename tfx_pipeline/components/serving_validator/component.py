"""Specification of ServingValidator."""

from __future__ import annotations

from tfx_pipeline.components.artifacts import ItemTableArtifact
from tfx_pipeline.components.serving_validator import executor
from tfx_pipeline.tfx_internals import (
    ChannelParameter,
    ExecutionParameter,
    base_component,
    executor_spec,
    standard_artifacts,
    types,
)

__all__ = ["ServingValidator", "ServingValidatorSpec"]


class ServingValidatorSpec(types.ComponentSpec):
    """Inputs and output of ServingValidator."""

    PARAMETERS = {
        "tolerance": ExecutionParameter(type=float),
        "timeout_s": ExecutionParameter(type=float),
        "max_p99_ms": ExecutionParameter(type=float, optional=True),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS = {
        "model": ChannelParameter(type=standard_artifacts.Model),
        "model_run": ChannelParameter(type=standard_artifacts.ModelRun),
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "item_table": ChannelParameter(type=ItemTableArtifact),
    }
    OUTPUTS = {
        "blessing": ChannelParameter(type=standard_artifacts.InfraBlessing)
    }


class ServingValidator(base_component.BaseComponent):
    """Boots a model server on the export and replays eval requests.

    Every signature is called by gRPC; see `checks`. Where it ranks, it must
    give the scores that the trainer recorded; where it looks up items, what
    the item table holds.

    Args:
        model: the exported model.
        model_run: the trainer's record of scores.
        examples: request-grouped Examples with an ``eval`` split.
        item_table: `ItemTableArtifact` that the model was exported with.
        tolerance: largest allowed difference of a probability.
        timeout_s: seconds for the server to come up, and for each call.
        max_p99_ms: largest 99th percentile of ``rank``, one request per call,
            in milliseconds; None for no limit.
        code_fingerprint: changes when the server's code changes.
    """

    SPEC_CLASS = ServingValidatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        model: types.BaseChannel,
        model_run: types.BaseChannel,
        examples: types.BaseChannel,
        item_table: types.BaseChannel,
        tolerance: float = 1e-4,
        timeout_s: float = 300,
        max_p99_ms: float | None = None,
        code_fingerprint: str = "",
    ) -> None:
        super().__init__(
            spec=ServingValidatorSpec(
                model=model,
                model_run=model_run,
                examples=examples,
                item_table=item_table,
                tolerance=tolerance,
                timeout_s=timeout_s,
                max_p99_ms=max_p99_ms,
                code_fingerprint=code_fingerprint,
                blessing=types.Channel(type=standard_artifacts.InfraBlessing),
            )
        )
