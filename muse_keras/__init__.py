"""Multimodal search-based user interest modeling in Keras 3.

Sub-packages are imported on first use: `muse_keras.tables.ItemTable` needs
NumPy alone, everything else Keras and any of its backends. Where Keras is
imported, before or after, it gets to know the names of all classes, so that
`keras.models.load_model` loads what was saved.
"""

import importlib
from typing import Any

from muse_keras._registration import register_names_with_keras
from muse_keras._version import __version__ as __version__

__all__ = [
    "callbacks",
    "compat",
    "layers",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "tables",
]


def __getattr__(name: str) -> Any:
    """Import a sub-package when it is first asked for."""
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})


register_names_with_keras()
