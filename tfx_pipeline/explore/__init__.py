"""The GSU explorer: what a model retrieved for a candidate, in a browser."""

from tfx_pipeline.explore.app import ExplorerApp
from tfx_pipeline.explore.data import ExplorerData
from tfx_pipeline.explore.explorer import Explorer
from tfx_pipeline.explore.model import ExplainedModel

__all__ = ["ExplainedModel", "Explorer", "ExplorerApp", "ExplorerData"]
