"""The TensorFlow Transform graph as a module to export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

# The class with which `tft.TransformFeaturesLayer` loads its graph. The layer
# is a Keras model, whose call would be traced again and saved in each export.
from tensorflow_transform.saved.saved_transform_io_v2 import SavedModelLoader


class TransformGraph(tf.Module):
    """Transforms raw features with the graph in ``folder``."""

    def __init__(self, folder: str) -> None:
        super().__init__(name="transform_graph")
        self._loader = SavedModelLoader(folder)
        self._resources = vars(self._loader)  # Tracked, to save the tables.

    def __call__(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs that can be computed from ``raw``."""
        return self._loader.apply_transform_model(raw)
