"""Losses of rankers and of item embeddings."""

from muse_keras.losses.cosine_triplet_loss import CosineTripletLoss
from muse_keras.losses.impression_crossentropy import ImpressionCrossentropy
from muse_keras.losses.info_nce import InfoNCE

__all__ = ["CosineTripletLoss", "ImpressionCrossentropy", "InfoNCE"]
