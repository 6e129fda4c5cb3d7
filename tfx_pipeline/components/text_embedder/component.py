"""Specification of TextEmbedder."""

from __future__ import annotations

from tfx_pipeline.components.artifacts import (
    ItemContentArtifact,
    ItemEmbeddingsArtifact,
)
from tfx_pipeline.components.text_embedder import executor
from tfx_pipeline.tfx_internals import (
    ChannelParameter,
    ExecutionParameter,
    base_component,
    executor_spec,
    types,
)

__all__ = ["TextEmbedder", "TextEmbedderSpec"]


class TextEmbedderSpec(types.ComponentSpec):
    """Parameters, input and output of TextEmbedder."""

    PARAMETERS = {
        "raw_dir": ExecutionParameter(type=str),
        "raw_fingerprint": ExecutionParameter(type=str),
        "seed": ExecutionParameter(type=int),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS = {"item_content": ChannelParameter(type=ItemContentArtifact)}
    OUTPUTS = {"embeddings": ChannelParameter(type=ItemEmbeddingsArtifact)}


class TextEmbedder(base_component.BaseComponent):
    """Embeds items by a decomposition of their texts (`data.item_text`).

    Args:
        item_content: `ItemContentArtifact`: the items.
        raw_dir: directory of the raw tables, for the texts themselves.
        raw_fingerprint: changes when the tables change.
        seed: of the randomised decomposition.
        code_fingerprint: changes when the code of the embedding changes.
    """

    SPEC_CLASS = TextEmbedderSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        item_content: types.BaseChannel,
        raw_dir: str,
        raw_fingerprint: str,
        seed: int,
        code_fingerprint: str = "",
    ) -> None:
        super().__init__(
            spec=TextEmbedderSpec(
                item_content=item_content,
                raw_dir=raw_dir,
                raw_fingerprint=raw_fingerprint,
                seed=seed,
                code_fingerprint=code_fingerprint,
                embeddings=types.Channel(type=ItemEmbeddingsArtifact),
            )
        )
