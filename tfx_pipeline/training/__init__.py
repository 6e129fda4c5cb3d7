"""Training of the ranker: input, steps, checkpoints, export."""
