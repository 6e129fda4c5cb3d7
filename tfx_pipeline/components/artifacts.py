"""Artifact types of this pipeline, and names in their folders."""

import os
from collections.abc import Sequence

from tfx_pipeline import features
from tfx_pipeline.tfx_internals import (
    Artifact,
    Property,
    PropertyType,
    artifact_utils,
)

TABLE_DIR = "table"
"""Folder in an `ItemTableArtifact`."""

EMBEDDINGS_DIR = "embeddings"
"""Folder of the Parquet files in an `ItemEmbeddingsArtifact`."""

CONTENT_DIR = "content"
"""Folder in an `ItemContentArtifact`."""

MODEL_TYPE = "model_type"
"""Property of a trained ranker: its `ModelConfig.type`."""

RESULT = "result"
"""Property of an evaluation: JSON of its metrics and of ``refused``, the
reason why the model is not blessed ("" if it is)."""

SCORES_FILE = "validation_scores.npz"
"""File in a ranker's `ModelRun`: scores that a server must reproduce."""

_NUMBER = Property(type=PropertyType.INT)


class ItemTableArtifact(Artifact):
    """Items with their int8 vectors and features.

    The directory ``table`` under its URI is a `muse_keras.tables.ItemTable`.
    """

    TYPE_NAME = "ItemTable"
    PROPERTIES = {"num_items": _NUMBER, "dim": _NUMBER}


class ItemEmbeddingsArtifact(Artifact):
    """Item vectors made by the pipeline.

    The directory ``embeddings`` under its URI holds Parquet files in the layout
    of the raw embedding table; ``report.json`` has statistics of them.
    """

    TYPE_NAME = "ItemEmbeddings"
    PROPERTIES = {"num_items": _NUMBER, "dim": _NUMBER}


class ItemContentArtifact(Artifact):
    """Vectors of the content of items, by modality.

    The directory ``content`` under its URI is an
    `muse_tools.datasets.item_content.ItemContent`.
    """

    TYPE_NAME = "ItemContent"
    PROPERTIES = {"num_items": _NUMBER}


def split_files(
    examples: Artifact,
    splits: Sequence[str] = (features.TRAIN_SPLIT, features.EVAL_SPLIT),
) -> list[str]:
    """Returns the file pattern of each split."""
    return [
        os.path.join(artifact_utils.get_split_uri([examples], split), "*")
        for split in splits
    ]
