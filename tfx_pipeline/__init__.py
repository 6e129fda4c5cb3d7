"""The MUSE pipeline on TFX: data, Beam transforms, components, runners.

This package imports none of its modules but one; import the module you need.
"""

from tfx_pipeline.lazy_import import import_on_access

# TFX imports the client of Vertex AI, which takes a third of its import time.
import_on_access("tfx.v1.extensions")
