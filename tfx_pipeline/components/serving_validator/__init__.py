"""ServingValidator: the exported model must answer as it was trained."""

from tfx_pipeline.components.serving_validator.component import (
    ServingValidator,
)

__all__ = ["ServingValidator"]
