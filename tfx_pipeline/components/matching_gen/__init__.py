"""MatchingGen: an item table and requests to a served candidate index."""

from tfx_pipeline.components.matching_gen.component import MatchingGen

__all__ = ["MatchingGen"]
