"""Evaluation of rankers in TFMA by GAUC and other metrics."""
