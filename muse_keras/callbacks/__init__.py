"""Callbacks for the training of item embeddings."""

from muse_keras.callbacks.collapse_guard import CollapsedError, CollapseGuard

__all__ = ["CollapseGuard", "CollapsedError"]
