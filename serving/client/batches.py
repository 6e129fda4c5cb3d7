"""Ragged requests to padded tensors, and answers back to the callers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from serving.client.outputs import candidate_part
from serving.client.types import (
    ExplainResult,
    IntegerList,
    RankRequest,
    RankResult,
)

__all__ = [
    "Limits",
    "explain_result",
    "group",
    "padded",
    "rank_inputs",
    "rank_result",
    "split",
]


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much goes into one call.

    Attributes:
        requests: rows.
        cells: padded ids, history and candidates together.
        items: items to add or replace.
    """

    requests: int = 64
    cells: int = 2_000_000
    items: int = 1024

    def __post_init__(self) -> None:
        """Checks the values; see the class."""
        if min(self.requests, self.cells, self.items) < 1:
            raise ValueError(
                "`requests`, `cells` and `items` must be at least 1. "
                f"Received: {self}"
            )


def split(
    requests: Sequence[RankRequest], limits: Limits
) -> Iterator[list[int]]:
    """Chooses which requests share a call.

    Args:
        requests: in any order.
        limits: how much goes into one call.

    Yields:
        Positions of the requests of one call.
    """
    yield from group(
        [2 * len(request.behavior_item_ids) for request in requests],
        [len(request.candidate_item_ids) for request in requests],
        limits,
    )


def group(
    histories: Sequence[int], candidates: Sequence[int], limits: Limits
) -> Iterator[list[int]]:
    """Chooses which requests of known sizes share a call.

    Requests with histories of like length go together, so that little is
    padded. A request that is too big on its own still gets a call.

    Args:
        histories: ids in the history of each request.
        candidates: candidates of each.
        limits: how much goes into one call.

    Yields:
        Positions of the requests of one call.
    """
    order = sorted(range(len(histories)), key=lambda i: histories[i])
    batch: list[int] = []
    widest = most = 0
    for index in order:
        wide = max(widest, histories[index])
        tall = max(most, candidates[index])
        cells = (len(batch) + 1) * (wide + tall)
        if batch and (len(batch) >= limits.requests or cells > limits.cells):
            yield batch
            batch = []
            wide, tall = histories[index], candidates[index]
        batch.append(index)
        widest, most = wide, tall
    if batch:
        yield batch


def rank_inputs(requests: Sequence[RankRequest]) -> dict[str, np.ndarray]:
    """Pads requests to the inputs of the signatures rank and explain.

    Padding is 0 at the end of each row, so positions in a history stay what
    they were. An empty history is one padding id wide.

    Args:
        requests: at least one.

    Returns:
        `user_id` (B,), `user_profile` (B, 5), `behavior_item_ids` and
        `behavior_category_ids` (B, L), `candidate_item_ids` (B, C); int64.
    """
    return {
        "user_id": np.array([r.user_id for r in requests], np.int64),
        "user_profile": np.stack([r.user_profile for r in requests]),
        "behavior_item_ids": padded([r.behavior_item_ids for r in requests]),
        "behavior_category_ids": padded(
            [r.behavior_category_ids for r in requests]
        ),
        "candidate_item_ids": padded([r.candidate_item_ids for r in requests]),
    }


def rank_result(
    request: RankRequest, outputs: Mapping[str, np.ndarray], row: int
) -> RankResult:
    """The part of an answer that belongs to one request.

    Args:
        request: the request.
        outputs: outputs of the signature rank.
        row: its row.

    Raises:
        ResponseError: an output is missing or too small.
    """
    count = len(request.candidate_item_ids)
    return RankResult(
        candidate_item_ids=np.asarray(request.candidate_item_ids),
        click_probability=candidate_part(
            outputs, "click_probability", row, count
        ),
    )


def explain_result(
    request: RankRequest, outputs: Mapping[str, np.ndarray], row: int
) -> ExplainResult:
    """The part of an explanation that belongs to one request.

    Args:
        request: the request.
        outputs: outputs of the signature explain.
        row: its row.

    Raises:
        ResponseError: an output is missing or too small.
    """
    count = len(request.candidate_item_ids)
    indices = candidate_part(outputs, "behavior_indices", row, count, 3)
    similarities = candidate_part(outputs, "similarities", row, count, 3)
    attention = candidate_part(outputs, "attention", row, count, 3)
    inside = (indices >= 0) & (indices < len(request.behavior_item_ids))
    return ExplainResult(
        candidate_item_ids=np.asarray(request.candidate_item_ids),
        click_probability=candidate_part(
            outputs, "click_probability", row, count
        ),
        behavior_indices=indices,
        similarities=similarities,
        attention=attention,
        retrieved=inside,
        tiers=candidate_part(outputs, "tiers", row, count, 3),
    )


def padded(lists: Sequence[IntegerList]) -> np.ndarray:
    """Lists of ids as one array.

    Args:
        lists: at least one.

    Returns:
        int64 (B, L), at least one wide, 0 at the end of shorter rows.
    """
    width = max(1, *(len(values) for values in lists)) if lists else 1
    if len(lists) == 1 and len(lists[0]) == width:
        return np.asarray(lists[0])[np.newaxis]
    out = np.zeros((len(lists), width), np.int64)
    for row, values in zip(out, lists, strict=True):
        row[: len(values)] = values
    return out
