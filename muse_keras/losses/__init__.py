"""Losses for rankers."""

from muse_keras.losses.impression_crossentropy import ImpressionCrossentropy

__all__ = ["ImpressionCrossentropy"]
