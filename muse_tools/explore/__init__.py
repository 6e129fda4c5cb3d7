"""The GSU explorer: shows retrieved behaviors in a browser."""

from muse_tools.explore.app import ExplorerApp
from muse_tools.explore.data import ExplorerData
from muse_tools.explore.explorer import Explorer
from muse_tools.explore.model import ExplainedModel

__all__ = ["ExplainedModel", "Explorer", "ExplorerApp", "ExplorerData"]
