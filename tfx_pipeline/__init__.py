"""The MUSE pipeline on TFX: data, Beam transforms, components, runners.

Importing this package imports nothing else; import the module you need.
"""
