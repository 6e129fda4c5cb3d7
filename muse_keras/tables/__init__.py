"""Item tables: from 64-bit item ids to rows, features and int8 vectors.

`ItemTable` needs NumPy alone and is the artifact on disk;
`MultimodalEmbeddingTable` is the same table as Keras weights on the device.
Names that need Keras are imported on first use, so that a data job which
only writes a table never pays for (or needs) Keras.
"""

import importlib
from typing import TYPE_CHECKING, Any

from muse_keras.tables.item_table import ItemTable

if TYPE_CHECKING:
    from muse_keras.tables.multimodal_embedding_table import (
        MultimodalEmbeddingTable,
    )
    from muse_keras.tables.row_gather import gather_rows

__all__ = ["ItemTable", "MultimodalEmbeddingTable", "gather_rows"]

_LAZY = {
    "MultimodalEmbeddingTable": "multimodal_embedding_table",
    "gather_rows": "row_gather",
}


def __getattr__(name: str) -> Any:
    """Import a name that needs Keras when it is first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_LAZY[name]}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
