"""Custom TFX components, one folder or module each."""
