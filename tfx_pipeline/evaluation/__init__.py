"""Evaluation of rankers: GAUC and what TFMA needs to compute it."""
