"""Which items are ranked: the request's, matching's or popular ones."""

from __future__ import annotations

import asyncio
import logging
import time

import numpy as np

from serving.client import RecommendRequest
from serving.ranking_service.histories import NO_HISTORY, History
from serving.ranking_service.targets import Target
from serving.ranking_service.work import Work
from serving.stores import StoreError

__all__ = ["find_candidates"]

_logger = logging.getLogger(__name__)


async def find_candidates(work: Work) -> tuple[np.ndarray, str]:
    """Finds the items to rank.

    Matching is waited for as long as popular items can still be ranked
    instead.
    """
    given = work.request.candidate_item_ids
    if given is not None:
        return np.asarray(given, np.int64), "request"
    number = work.request.num_candidates or work.config.num_candidates
    popular = work.parts.popular[:number]
    if not work.config.matching_model:
        return popular, "popular"
    seconds = work.left
    if len(popular):
        seconds = work.time_for("matching", "rank_shortened", "rank_no_history")
    found = await _match(work, number, time.monotonic() + seconds)
    if found is not None and len(found):
        return found, "matching"
    return popular, "popular"


async def _match(work: Work, number: int, until: float) -> np.ndarray | None:
    behaviors = (await _read_newest(work)).item_ids

    async def call(target: Target, seconds: float) -> np.ndarray:
        found = await target.client.recommend(
            RecommendRequest(behaviors, number),
            model=work.config.matching_model,
            timeout=seconds,
        )
        ids = np.asarray(found.candidate_item_ids, np.int64)
        return ids[ids != 0]

    seconds = until - time.monotonic()
    return await work.stage("matching", seconds, work.order, call)


async def _read_newest(work: Work) -> History:
    """The few behaviours that matching needs."""
    length = work.config.matching_length
    histories = work.parts.histories
    if not histories.exist or not length:
        return NO_HISTORY
    seconds = work.time_for(
        "store_read_newest", "rank_shortened", "rank_no_history"
    )
    if seconds <= 0:
        work.recorder.skip("store_read_newest")
        return NO_HISTORY
    outcome = "cancelled"
    span = work.recorder.begin("store_read_newest")
    try:
        work.newest = await asyncio.wait_for(
            histories.read(work.request.user_id, length),
            seconds,
        )
        outcome = "miss" if work.newest is None else "ok"
    except asyncio.TimeoutError:
        outcome = "timeout"
    except StoreError:
        outcome = "error"
    except Exception:
        outcome = "error"
        _logger.exception("Reading the newest behaviors failed")
    finally:
        work.recorder.finish(span, outcome)
    return NO_HISTORY if work.newest is None else work.newest
