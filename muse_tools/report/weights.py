"""The learned weights of SimTier and SA-TA in an exported model."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

# `model_variables/<layer>.<layer>.<name>/.ATTRIBUTES/...`; checkpoints write
# each dot of a name as two dots.
_PREFIX = "model_variables/"
_SEPARATOR = ".."
_TIERS = "tier_weights"
_GAMMA = "gamma"
_SCALE = "similarity_scale"
_PARTS = {"exact_search_unit": "long-term", "short_term": "short-term"}


def learned_weights(export: pathlib.Path) -> dict[str, Any]:
    """Reads the learned weights of similarities by part of the model.

    ``tiers`` are SimTier's weights. ``fusion`` has SA-TA's ``gamma`` (three
    rows with one value per head) and ``scale`` (None if it has none).
    """
    reader = tf.train.load_checkpoint(str(export / "variables" / "variables"))
    tiers: dict[str, list[float]] = {}
    fusion: dict[str, dict[str, Any]] = {}
    keys = sorted(reader.get_variable_to_shape_map())
    for key in keys:
        path = key.removeprefix(_PREFIX).partition("/")[0].split(_SEPARATOR)
        part = _PARTS.get(path[0], path[0].replace("_", " "))
        if path[-1] == _TIERS:
            tiers[part] = _list(reader.get_tensor(key))
        elif path[-1] == _GAMMA and "attention" in path:
            scale = key.replace(f"..{_GAMMA}/", f"..{_SCALE}/")
            fusion[part] = {
                "gamma": [_list(row) for row in reader.get_tensor(key)],
                "scale": (
                    float(reader.get_tensor(scale)) if scale in keys else None
                ),
            }
    return {
        "tiers": dict(sorted(tiers.items())),
        "fusion": dict(sorted(fusion.items())),
    }


def _list(values: np.ndarray) -> list[float]:
    return [float(value) for value in values]
