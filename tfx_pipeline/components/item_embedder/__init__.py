"""ItemEmbedder: item content through the tower, to int8 item embeddings."""

from tfx_pipeline.components.item_embedder.component import ItemEmbedder

__all__ = ["ItemEmbedder"]
