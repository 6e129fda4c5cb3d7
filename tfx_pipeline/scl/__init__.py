"""Semantic-aware contrastive learning of the item embeddings."""
