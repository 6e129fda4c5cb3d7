"""Specification of ItemEmbedder."""

from __future__ import annotations

from tfx_pipeline.components.artifacts import (
    ItemContentArtifact,
    ItemEmbeddingsArtifact,
)
from tfx_pipeline.components.item_embedder import executor
from tfx_pipeline.tfx_internals import (
    ChannelParameter,
    ExecutionParameter,
    base_beam_component,
    executor_spec,
    standard_artifacts,
    types,
)

__all__ = ["ItemEmbedder", "ItemEmbedderSpec"]


class ItemEmbedderSpec(types.ComponentSpec):
    """Parameters, inputs and output of ItemEmbedder."""

    PARAMETERS = {
        "block_items": ExecutionParameter(type=int),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS = {
        "model": ChannelParameter(type=standard_artifacts.Model),
        "item_content": ChannelParameter(type=ItemContentArtifact),
    }
    OUTPUTS = {"embeddings": ChannelParameter(type=ItemEmbeddingsArtifact)}


class ItemEmbedder(base_beam_component.BaseBeamComponent):
    """Embeds every item with Beam and writes int8 codes.

    Args:
        model: SavedModel of SCLTrainer.
        item_content: `ItemContentArtifact`.
        block_items: items of one Beam element, and of one Parquet file.
        code_fingerprint: changes when the code of the embedding changes.
    """

    SPEC_CLASS = ItemEmbedderSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        *,
        model: types.BaseChannel,
        item_content: types.BaseChannel,
        block_items: int = 1 << 16,
        code_fingerprint: str = "",
    ) -> None:
        super().__init__(
            spec=ItemEmbedderSpec(
                model=model,
                item_content=item_content,
                block_items=block_items,
                code_fingerprint=code_fingerprint,
                embeddings=types.Channel(type=ItemEmbeddingsArtifact),
            )
        )
