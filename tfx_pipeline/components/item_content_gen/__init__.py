"""ItemContentGen: what items look like, from a raw table to an artifact."""

from tfx_pipeline.components.item_content_gen.component import ItemContentGen

__all__ = ["ItemContentGen"]
