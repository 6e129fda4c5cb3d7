"""The user cache inside a served model: requests, arrays and answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from serving.client.batches import padded
from serving.client.errors import RequestError, ResponseError
from serving.client.outputs import candidate_part, column
from serving.client.types import (
    IntegerList,
    RankResult,
    check_candidates,
    check_profile,
    id_array,
    whole_number,
)

__all__ = [
    "CACHE_STATISTICS",
    "CachedRankRequest",
    "CachedRankResult",
    "PrefetchRequest",
    "PrefetchResult",
    "ResolvedItems",
    "UserCacheStats",
    "cached_rank_inputs",
    "cached_rank_result",
    "prefetch_inputs",
    "prefetch_result",
    "resolved_items",
    "user_cache_stats",
]

_INT32 = np.iinfo(np.int32)
_PER_USER = ("cached_length", "generation", "age_seconds")


@dataclasses.dataclass(frozen=True, eq=False)
class PrefetchRequest:
    """A history to keep in the model, for `rank_cached`.

    The items of the history are given by id, or by the rows that
    `resolve_items` found for them.

    Attributes:
        user_id: the user.
        user_profile: five profile ids; 0 where unknown.
        behavior_item_ids: items of the history, oldest first; may be empty.
            None where rows are given.
        behavior_category_ids: their categories, as long as the history.
        behavior_rows: rows of the items instead of their ids; 0 for an item
            that the model does not know.
        table_stamp: the stamp that came with the rows.

    Raises:
        RequestError: a field is not as described.
    """

    user_id: int
    user_profile: IntegerList
    behavior_item_ids: IntegerList | None
    behavior_category_ids: IntegerList
    behavior_rows: IntegerList | None = None
    table_stamp: int | None = None

    def __post_init__(self) -> None:
        """Checks the values; see the class."""
        object.__setattr__(self, "user_id", whole_number(self.user_id))
        object.__setattr__(
            self, "user_profile", check_profile(self.user_profile)
        )
        if (self.behavior_item_ids is None) == (self.behavior_rows is None):
            both = self.behavior_rows is not None
            raise RequestError(
                "behavior_rows",
                "be given instead of `behavior_item_ids`",
                "both" if both else "neither",
            )
        if (self.behavior_rows is None) != (self.table_stamp is None):
            raise RequestError(
                "table_stamp", "go with `behavior_rows`", self.table_stamp
            )
        name = "behavior_item_ids"
        if self.behavior_rows is not None:
            name = "behavior_rows"
            stamp = whole_number(self.table_stamp, "table_stamp")
            object.__setattr__(self, "table_stamp", stamp)
        values = id_array(name, getattr(self, name))
        if self.behavior_rows is not None:
            wrong = (values < 0) | (values > _INT32.max)
            if wrong.any():
                place = int(np.argmax(wrong))
                raise RequestError(
                    name,
                    f"be rows from 0 to {_INT32.max}",
                    f"{values[place]} at position {place}",
                )
            values = values.astype(np.int32)
        object.__setattr__(self, name, values)
        categories = id_array(
            "behavior_category_ids", self.behavior_category_ids
        )
        object.__setattr__(self, "behavior_category_ids", categories)
        if len(categories) != len(values):
            raise RequestError(
                "behavior_category_ids",
                f"be as long as {name}, {len(values)}",
                f"{len(categories)} ids",
            )

    @property
    def by_rows(self) -> bool:
        """Whether the history comes as rows."""
        return self.behavior_rows is not None

    def __len__(self) -> int:
        """Behaviours in the history."""
        return len(self.behavior_category_ids)


@dataclasses.dataclass(frozen=True)
class PrefetchResult:
    """What the model keeps of a history.

    Attributes:
        cached_length: behaviours kept, the newest.
        generation: number of this prefetch, above 0; 0 if nothing was kept.
    """

    cached_length: int
    generation: int

    @property
    def cached(self) -> bool:
        """Whether it is kept; if not, another writer took the place."""
        return self.generation > 0


@dataclasses.dataclass(frozen=True, eq=False)
class CachedRankRequest:
    """A prefetched user and the items to score for them.

    Attributes:
        user_id: the user.
        candidate_item_ids: items to score, at least one, none of them 0.

    Raises:
        RequestError: a field is not as described.
    """

    user_id: int
    candidate_item_ids: IntegerList

    def __post_init__(self) -> None:
        """Checks the values; see the class."""
        object.__setattr__(self, "user_id", whole_number(self.user_id))
        ids = id_array("candidate_item_ids", self.candidate_item_ids)
        check_candidates(ids)
        object.__setattr__(self, "candidate_item_ids", ids)


@dataclasses.dataclass(frozen=True, eq=False)
class CachedRankResult(RankResult):
    """Scores of one request, if the user's history was in the model.

    Attributes:
        cache_hit: whether it was; if not, every score is 0 and says nothing.
        generation: of the prefetch that was used; 0 for a miss.
    """

    cache_hit: bool
    generation: int


@dataclasses.dataclass(frozen=True, eq=False)
class UserCacheStats:
    """What is in the cache of the served version.

    Attributes:
        cached_length: int32 (B,), behaviours of each user; -1 if not cached.
        generation: int64 (B,), 0 if not cached.
        age_seconds: float32 (B,), since the prefetch.
        capacity: users that fit.
        occupied: users that are there.
        max_length: behaviours kept of a user.
        bytes: memory of the cache.
        hits: rankings that found their user.
        misses: rankings that did not.
        prefetches: histories written.
        evictions: users that made place for others.
        expired: entries found too old.
        mixed: reads refused because a writer was at it.
    """

    cached_length: np.ndarray
    generation: np.ndarray
    age_seconds: np.ndarray
    capacity: int
    occupied: int
    max_length: int
    bytes: int
    hits: int
    misses: int
    prefetches: int
    evictions: int
    expired: int
    mixed: int


CACHE_STATISTICS = tuple(
    field.name
    for field in dataclasses.fields(UserCacheStats)
    if field.name not in _PER_USER
)
"""What `UserCacheStats` says about the cache as a whole."""


@dataclasses.dataclass(frozen=True, eq=False)
class ResolvedItems:
    """Rows of items in the item table of the served version.

    Attributes:
        rows: int32 (N,), 0 for an unknown item.
        table_stamp: number that names the table; rows of another table are
            refused by `prefetch`.
    """

    rows: np.ndarray
    table_stamp: int


def prefetch_inputs(
    requests: Sequence[PrefetchRequest],
) -> dict[str, np.ndarray]:
    """Pads requests to the inputs of prefetch or prefetch_rows.

    Args:
        requests: at least one, all of them by ids or all by rows.

    Returns:
        `user_id` (B,), `user_profile` (B, 5), `behavior_category_ids` (B, L)
        and `behavior_item_ids` (B, L), int64; or, instead of the latter,
        `behavior_rows` int32 (B, L), -1 where padded, and `table_stamp` (B,).
    """
    inputs = {
        "user_id": np.array([r.user_id for r in requests], np.int64),
        "user_profile": np.stack([r.user_profile for r in requests]),
        "behavior_category_ids": padded(
            [r.behavior_category_ids for r in requests]
        ),
    }
    if requests[0].by_rows:
        rows = np.full(inputs["behavior_category_ids"].shape, -1, np.int32)
        for row, request in zip(rows, requests, strict=True):
            row[: len(request)] = request.behavior_rows
        inputs["behavior_rows"] = rows
        inputs["table_stamp"] = np.array(
            [r.table_stamp for r in requests], np.int64
        )
    else:
        inputs["behavior_item_ids"] = padded(
            [r.behavior_item_ids for r in requests]  # type: ignore[misc]
        )
    return inputs


def prefetch_result(
    outputs: Mapping[str, np.ndarray], row: int
) -> PrefetchResult:
    """The part of an answer that belongs to one request.

    Args:
        outputs: outputs of the signature prefetch.
        row: its row.

    Raises:
        ResponseError: an output is missing or too small.
    """
    return PrefetchResult(
        cached_length=int(column(outputs, "cached_length", row + 1)[row]),
        generation=int(column(outputs, "generation", row + 1)[row]),
    )


def cached_rank_inputs(
    requests: Sequence[CachedRankRequest],
) -> dict[str, np.ndarray]:
    """Pads requests to the inputs of the signature rank_cached.

    Args:
        requests: at least one.

    Returns:
        `user_id` (B,) and `candidate_item_ids` (B, C), int64.
    """
    return {
        "user_id": np.array([r.user_id for r in requests], np.int64),
        "candidate_item_ids": padded([r.candidate_item_ids for r in requests]),
    }


def cached_rank_result(
    request: CachedRankRequest, outputs: Mapping[str, np.ndarray], row: int
) -> CachedRankResult:
    """The part of an answer that belongs to one request.

    Args:
        request: the request.
        outputs: outputs of the signature rank_cached.
        row: its row.

    Raises:
        ResponseError: an output is missing or too small.
    """
    count = len(request.candidate_item_ids)
    return CachedRankResult(
        candidate_item_ids=np.asarray(request.candidate_item_ids),
        click_probability=candidate_part(
            outputs, "click_probability", row, count
        ),
        cache_hit=bool(column(outputs, "cache_hit", row + 1)[row]),
        generation=int(column(outputs, "generation", row + 1)[row]),
    )


def user_cache_stats(
    outputs: Mapping[str, np.ndarray], count: int
) -> UserCacheStats:
    """Reads the answer of the signature user_cache.

    Args:
        outputs: its outputs.
        count: users asked for, at least one.

    Raises:
        ResponseError: an output is missing or too small.
    """
    users = {name: column(outputs, name, count) for name in _PER_USER}
    counts = {
        name: int(column(outputs, name, 1)[0]) for name in CACHE_STATISTICS
    }
    return UserCacheStats(**users, **counts)  # type: ignore[arg-type]


def resolved_items(
    answers: Sequence[Mapping[str, np.ndarray]], sizes: Sequence[int]
) -> ResolvedItems:
    """Joins the answers of consecutive calls of resolve_items.

    Args:
        answers: outputs, at least one.
        sizes: items of each call.

    Raises:
        ResponseError: an output is missing or too small, or the version was
            swapped between two calls.
    """
    rows, stamps = [], set()
    for answer, size in zip(answers, sizes, strict=True):
        rows.append(column(answer, "row", size))
        stamps.update(column(answer, "table_stamp", size).tolist())
    if len(stamps) != 1:
        raise ResponseError(
            f"the rows come from {len(stamps)} item tables; the version was "
            "swapped between two calls"
        )
    return ResolvedItems(rows=np.concatenate(rows), table_stamp=stamps.pop())
