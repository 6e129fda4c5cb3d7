"""SearchExampleGen: search events to Examples, split by time."""

from tfx_pipeline.components.search_example_gen.component import (
    SearchExampleGen,
)

__all__ = ["SearchExampleGen"]
