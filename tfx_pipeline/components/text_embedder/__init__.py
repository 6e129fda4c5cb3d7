"""TextEmbedder: item text to int8 item embeddings, without training."""

from tfx_pipeline.components.text_embedder.component import TextEmbedder

__all__ = ["TextEmbedder"]
