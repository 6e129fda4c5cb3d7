"""ItemTableGen: raw item tables to the ItemTable artifact."""

from tfx_pipeline.components.item_table_gen.component import ItemTableGen

__all__ = ["ItemTableGen"]
