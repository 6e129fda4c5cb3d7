"""Beam transforms; what they compute per batch is plain NumPy and Arrow."""
