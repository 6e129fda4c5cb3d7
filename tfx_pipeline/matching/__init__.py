"""Candidate generation with TensorFlow Recommenders.

TensorFlow Recommenders does not support Keras 3, so the modules that import it
(`index`, `factorized`, `job`) run in a process of their own, which `process`
starts. Other modules of this package must not import them at import time.
"""
