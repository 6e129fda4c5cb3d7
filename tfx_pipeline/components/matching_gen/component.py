"""Specification of MatchingGen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tfx_pipeline.components.artifacts import ItemTableArtifact
from tfx_pipeline.components.matching_gen import executor
from tfx_pipeline.tfx_internals import (
    ChannelParameter,
    ExecutionParameter,
    base_component,
    executor_spec,
    standard_artifacts,
    types,
)

__all__ = ["MatchingGen", "MatchingGenSpec"]


class MatchingGenSpec(types.ComponentSpec):
    """Inputs and outputs of MatchingGen."""

    PARAMETERS = {
        "settings": ExecutionParameter(type=str),
        "min_recall": ExecutionParameter(type=float),
        "push_dir": ExecutionParameter(type=str),
        "ranker_dirs": ExecutionParameter(type=str),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS = {
        "item_table": ChannelParameter(type=ItemTableArtifact),
        "examples": ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS = {
        "model": ChannelParameter(type=standard_artifacts.Model),
        "evaluation": ChannelParameter(type=standard_artifacts.ModelEvaluation),
    }


class MatchingGen(base_component.BaseComponent):
    """Makes, measures and pushes the model that finds candidates.

    The work is done in a process of its own, since TensorFlow Recommenders
    refuses Keras 3.

    Args:
        item_table: `ItemTableArtifact`.
        examples: request-grouped Examples, splits ``train`` and ``eval``.
        settings: fields of `tfx_pipeline.matching.settings.Job` that are not
            paths.
        min_recall: recall of held-out clicks, among a whole answer, below
            which the model is not pushed.
        push_dir: base directory of the served model.
        ranker_dirs: base directory of each served ranker, by the name of the
            ``models.config`` that lists it beside the matching model.
        code_fingerprint: changes when the code of this stage changes.
    """

    SPEC_CLASS = MatchingGenSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        item_table: types.BaseChannel,
        examples: types.BaseChannel,
        settings: Mapping[str, Any],
        min_recall: float,
        push_dir: str,
        ranker_dirs: Mapping[str, str],
        code_fingerprint: str = "",
    ) -> None:
        super().__init__(
            spec=MatchingGenSpec(
                item_table=item_table,
                examples=examples,
                settings=json.dumps(settings, sort_keys=True),
                min_recall=min_recall,
                push_dir=push_dir,
                ranker_dirs=json.dumps(ranker_dirs, sort_keys=True),
                code_fingerprint=code_fingerprint,
                model=types.Channel(type=standard_artifacts.Model),
                evaluation=types.Channel(
                    type=standard_artifacts.ModelEvaluation
                ),
            )
        )
