"""Optimizers for rankers with large embedding tables."""

from muse_keras.optimizers.row_sparse_adam import RowSparseAdam

__all__ = ["RowSparseAdam"]
