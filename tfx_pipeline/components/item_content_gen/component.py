"""Specification of ItemContentGen."""

from __future__ import annotations

from tfx_pipeline.components.artifacts import ItemContentArtifact
from tfx_pipeline.components.item_content_gen import executor
from tfx_pipeline.tfx_internals import (
    ChannelParameter,
    ExecutionParameter,
    base_component,
    executor_spec,
    types,
)

__all__ = ["ItemContentGen", "ItemContentGenSpec"]


class ItemContentGenSpec(types.ComponentSpec):
    """Parameters and output of ItemContentGen."""

    PARAMETERS = {
        "raw_dir": ExecutionParameter(type=str),
        "raw_fingerprint": ExecutionParameter(type=str),
        "rejected_dir": ExecutionParameter(type=str),
        "text_encoder": ExecutionParameter(type=str),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS: dict = {}
    OUTPUTS = {"item_content": ChannelParameter(type=ItemContentArtifact)}


class ItemContentGen(base_component.BaseComponent):
    """Imports the modality vectors and texts of items.

    Args:
        raw_dir: directory of the raw tables; ``item_content`` is read.
        raw_fingerprint: changes when the table changes.
        rejected_dir: directory for rejected rows and the row counts.
        text_encoder: what encodes texts, see `text_features.load_encoder`.
        code_fingerprint: changes when the code of the import changes.
    """

    SPEC_CLASS = ItemContentGenSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        raw_dir: str,
        raw_fingerprint: str,
        rejected_dir: str,
        text_encoder: str = "",
        code_fingerprint: str = "",
    ) -> None:
        super().__init__(
            spec=ItemContentGenSpec(
                raw_dir=raw_dir,
                raw_fingerprint=raw_fingerprint,
                rejected_dir=rejected_dir,
                text_encoder=text_encoder,
                code_fingerprint=code_fingerprint,
                item_content=types.Channel(type=ItemContentArtifact),
            )
        )
