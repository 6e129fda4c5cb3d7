"""Artifact types of this pipeline."""

from tfx.types.artifact import Artifact, Property, PropertyType

__all__ = ["ItemTableArtifact"]


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
