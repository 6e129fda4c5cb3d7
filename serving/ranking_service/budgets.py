"""How long each stage of a request may take."""

from __future__ import annotations

import pydantic

__all__ = ["StageBudgets"]


class StageBudgets(pydantic.BaseModel):
    """Milliseconds per stage, by the stage's name; 0 leaves a stage out.

    Attributes:
        store_read_newest: reading the behaviors that matching needs.
        matching: finding candidates, that read included.
        prefetch: waiting, once the candidates are there, for the user's
            history to be in the user cache.
        rank_cached: ranking with the user cache.
        rank_full: ranking with the whole history.
        rank_shortened: ranking with the newest behaviors. The stages before
            it leave so much time unused.
        rank_no_history: ranking without a history. All other stages leave so
            much time unused; it may take whatever is left.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    store_read_newest: float = pydantic.Field(default=100.0, ge=0)
    matching: float = pydantic.Field(default=1_000.0, ge=0)
    prefetch: float = pydantic.Field(default=1_000.0, ge=0)
    rank_cached: float = pydantic.Field(default=1_000.0, ge=0)
    rank_full: float = pydantic.Field(default=1_000.0, ge=0)
    rank_shortened: float = pydantic.Field(default=50.0, ge=0)
    rank_no_history: float = pydantic.Field(default=50.0, gt=0)
