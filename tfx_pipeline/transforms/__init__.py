"""Beam transforms; per batch they use plain NumPy and Arrow."""
