"""Specification of SearchExampleGen."""

from __future__ import annotations

from tfx_pipeline.components.artifacts import ItemContentArtifact
from tfx_pipeline.components.search_example_gen import executor
from tfx_pipeline.tfx_internals import (
    ChannelParameter,
    ExecutionParameter,
    base_beam_component,
    executor_spec,
    standard_artifacts,
    types,
)

__all__ = ["SearchExampleGen", "SearchExampleGenSpec"]


class SearchExampleGenSpec(types.ComponentSpec):
    """Parameters, input and output of SearchExampleGen."""

    PARAMETERS = {
        "raw_dir": ExecutionParameter(type=str),
        "raw_fingerprint": ExecutionParameter(type=str),
        "rejected_dir": ExecutionParameter(type=str),
        "eval_fraction": ExecutionParameter(type=float),
        "text_encoder": ExecutionParameter(type=str),
        "max_rejected_fraction": ExecutionParameter(type=float),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS = {"item_content": ChannelParameter(type=ItemContentArtifact)}
    OUTPUTS = {"examples": ChannelParameter(type=standard_artifacts.Examples)}


class SearchExampleGen(base_beam_component.BaseBeamComponent):
    """Turns search events into Examples with Beam.

    Output ``examples`` has the splits ``train`` and ``eval``: the newest
    events are ``eval``. Rejected rows are kept as Parquet with a reason.

    Args:
        item_content: channel of the items that events may name.
        raw_dir: directory of the raw tables; ``search_events`` is read.
        raw_fingerprint: changes when the table changes.
        rejected_dir: directory for rejected rows and the row counts.
        eval_fraction: share of the events, the newest, in ``eval``.
        text_encoder: what encodes texts, see `text_features.load_encoder`.
        max_rejected_fraction: share of rejected events that fails the run.
        code_fingerprint: changes when the code of the join changes.
    """

    SPEC_CLASS = SearchExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        *,
        item_content: types.BaseChannel,
        raw_dir: str,
        raw_fingerprint: str,
        rejected_dir: str,
        eval_fraction: float,
        text_encoder: str = "",
        max_rejected_fraction: float = 0.01,
        code_fingerprint: str = "",
    ) -> None:
        super().__init__(
            spec=SearchExampleGenSpec(
                item_content=item_content,
                raw_dir=raw_dir,
                raw_fingerprint=raw_fingerprint,
                rejected_dir=rejected_dir,
                eval_fraction=eval_fraction,
                text_encoder=text_encoder,
                max_rejected_fraction=max_rejected_fraction,
                code_fingerprint=code_fingerprint,
                examples=types.Channel(type=standard_artifacts.Examples),
            )
        )
