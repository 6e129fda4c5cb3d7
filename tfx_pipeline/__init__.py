"""The MUSE pipeline on TFX: data, Beam transforms, components, runners.

This package imports none of its modules; import the module you need.
"""
