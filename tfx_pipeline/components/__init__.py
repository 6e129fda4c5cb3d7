"""Custom TFX components, one module each."""
