"""Specification of ItemTableGen."""

from __future__ import annotations

from tfx_pipeline.components.artifacts import (
    ItemEmbeddingsArtifact,
    ItemTableArtifact,
)
from tfx_pipeline.components.item_table_gen import executor
from tfx_pipeline.tfx_internals import (
    ChannelParameter,
    ExecutionParameter,
    base_component,
    executor_spec,
    types,
)

__all__ = ["ItemTableGen", "ItemTableGenSpec"]


class ItemTableGenSpec(types.ComponentSpec):
    """Parameters and output of ItemTableGen."""

    PARAMETERS = {
        "raw_dir": ExecutionParameter(type=str),
        "raw_fingerprint": ExecutionParameter(type=str),
        "rejected_dir": ExecutionParameter(type=str),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS = {
        "embeddings": ChannelParameter(
            type=ItemEmbeddingsArtifact, optional=True
        )
    }
    OUTPUTS = {"item_table": ChannelParameter(type=ItemTableArtifact)}


class ItemTableGen(base_component.BaseComponent):
    """Joins item embeddings and item features.

    Args:
        raw_dir: directory of the raw tables.
        raw_fingerprint: changes when the tables change.
        rejected_dir: directory for rejected rows and the row counts.
        embeddings: `ItemEmbeddingsArtifact` made by the pipeline; without it
            the raw table of ready-made embeddings is imported.
        code_fingerprint: changes when the code of the import changes.
    """

    SPEC_CLASS = ItemTableGenSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        raw_dir: str,
        raw_fingerprint: str,
        rejected_dir: str,
        embeddings: types.BaseChannel | None = None,
        code_fingerprint: str = "",
    ) -> None:
        super().__init__(
            spec=ItemTableGenSpec(
                raw_dir=raw_dir,
                raw_fingerprint=raw_fingerprint,
                rejected_dir=rejected_dir,
                embeddings=embeddings,
                code_fingerprint=code_fingerprint,
                item_table=types.Channel(type=ItemTableArtifact),
            )
        )
