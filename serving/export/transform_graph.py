"""The graph of TensorFlow Transform, as a module to export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

# The class by which `tft.TransformFeaturesLayer` loads its graph. The layer is
# a Keras model, whose call would be traced again and stored in every export.
from tensorflow_transform.saved.saved_transform_io_v2 import SavedModelLoader


class TransformGraph(tf.Module):
    """Transforms raw features with the graph in ``folder``."""

    def __init__(self, folder: str) -> None:
        super().__init__(name="transform_graph")
        self._loader = SavedModelLoader(folder)
        self._resources = vars(self._loader)  # Tracked: tables are saved.

    def __call__(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs that ``raw`` is enough for."""
        return self._loader.apply_transform_model(raw)
