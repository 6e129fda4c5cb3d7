"""The published PyTorch implementation's model, and its checkpoints."""

from muse_keras.compat.checkpoint import (
    load_published_weights,
    read_state_dict,
)
from muse_keras.compat.published_muse import PublishedMUSE
from muse_keras.compat.two_logit_tower import TwoLogitTower

__all__ = [
    "PublishedMUSE",
    "TwoLogitTower",
    "load_published_weights",
    "read_state_dict",
]
