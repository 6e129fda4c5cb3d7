"""ExampleGen: raw tables to request-grouped Examples."""

from tfx_pipeline.components.request_example_gen.component import (
    RequestExampleGen,
)

__all__ = ["RequestExampleGen"]
