"""Candidate generation with TensorFlow Recommenders.

TensorFlow Recommenders refuses Keras 3, so everything that imports it
(`index`, `factorized`, `job`) runs in a process of its own, which `process`
starts. Nothing here may import those when it is imported itself.
"""
