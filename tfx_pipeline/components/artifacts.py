"""Artifact types of this pipeline."""

from tfx_pipeline.tfx_internals import Artifact, Property, PropertyType

__all__ = [
    "EMBEDDINGS_DIR",
    "ItemContentArtifact",
    "ItemEmbeddingsArtifact",
    "ItemTableArtifact",
]

EMBEDDINGS_DIR = "embeddings"
"""Folder of the Parquet files of an `ItemEmbeddingsArtifact`."""


class ItemTableArtifact(Artifact):
    """Items with their int8 vectors and features.

    The directory ``table`` under its URI is what
    `muse_keras.tables.ItemTable` reads and writes.
    """

    TYPE_NAME = "ItemTable"
    PROPERTIES = {
        "num_items": Property(type=PropertyType.INT),
        "dim": Property(type=PropertyType.INT),
    }


class ItemEmbeddingsArtifact(Artifact):
    """Item vectors made by the pipeline.

    The directory ``embeddings`` under its URI holds Parquet files of the
    layout of the raw embedding table, ``report.json`` what they are like.
    """

    TYPE_NAME = "ItemEmbeddings"
    PROPERTIES = {
        "num_items": Property(type=PropertyType.INT),
        "dim": Property(type=PropertyType.INT),
    }


class ItemContentArtifact(Artifact):
    """What items look like, by modality.

    The directory ``content`` under its URI is what
    `muse_tools.datasets.item_content.ItemContent` reads and writes.
    """

    TYPE_NAME = "ItemContent"
    PROPERTIES = {"num_items": Property(type=PropertyType.INT)}
