"""Benchmarks: one runnable program per claim."""
