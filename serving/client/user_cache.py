"""The user cache in a served model: requests, results and signatures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from serving.client.batches import (
    Limits,
    Outputs,
    RowSignature,
    behavior_inputs,
    candidate_inputs,
    candidate_size,
    column,
    history_ids,
    scored,
)
from serving.client.calls import Plan, Predict, Target
from serving.client.declaration import Declaration
from serving.client.declared_inputs import SignatureInputs
from serving.client.errors import RequestError, ResponseError
from serving.client.feature_values import (
    Value,
    Values,
    features_of_each,
    features_of_one,
    number_of_values,
)
from serving.client.types import (
    Id,
    IdList,
    IntegerList,
    RankResult,
    id_array,
    one_id,
    scoring_fields,
    set_checked,
    some_ids,
    whole_number,
)

_INT32 = np.iinfo(np.int32)
_PER_USER = ("cached_length", "generation", "age_seconds")


@dataclasses.dataclass(frozen=True, eq=False)
class PrefetchRequest:
    """A history to store in the model, for `rank_cached`.

    The items of the history are given by id, or by the table rows that
    `resolve_items` returned.

    Attributes:
        user_id: the user.
        behavior_item_ids: items of the history, oldest first; may be empty.
            None if rows are given.
        user: features of the user, by declared name.
        behaviors: features of the behaviors, by declared name, each as long
            as the history.
        behavior_rows: rows of the items instead of their ids. 0 is an item
            that the model does not know; -1 is padding, which `resolve_items`
            never returns.
        table_stamp: the stamp that was returned with the rows.

    Raises:
        RequestError: a field has a wrong value.
    """

    user_id: Id
    behavior_item_ids: IdList | None = None
    user: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    behaviors: Mapping[str, Values] = dataclasses.field(default_factory=dict)
    behavior_rows: IntegerList | None = None
    table_stamp: int | None = None

    def __post_init__(self) -> None:
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
        name = "behavior_rows" if self.by_rows else "behavior_item_ids"
        values = id_array(name, getattr(self, name))
        if self.by_rows:
            if values.dtype == object:
                raise RequestError(name, "be rows", values.tolist())
            wrong = (values < -1) | (values > _INT32.max)
            if wrong.any():
                place = int(np.argmax(wrong))
                raise RequestError(
                    name,
                    f"be rows from 0 to {_INT32.max}, or -1 for padding",
                    f"{values[place]} at position {place}",
                )
            values = values.astype(np.int32)
            stamp = whole_number(self.table_stamp, "table_stamp")
            set_checked(self, table_stamp=stamp)
        set_checked(
            self,
            user_id=one_id(self.user_id),
            user=features_of_one("user", self.user),
            behaviors=features_of_each(
                "behaviors", self.behaviors, (name, len(values))
            ),
            **{name: values},
        )

    @property
    def by_rows(self) -> bool:
        """Whether the history is given as rows."""
        return self.behavior_rows is not None

    def __len__(self) -> int:
        rows, ids = self.behavior_rows, self.behavior_item_ids
        return len(ids if rows is None else rows)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class PrefetchResult:
    """Result of storing a history.

    Attributes:
        cached_length: number of stored behaviors, the newest ones.
        generation: number of this prefetch, above 0; 0 if nothing was stored.
    """

    cached_length: int
    generation: int

    @property
    def cached(self) -> bool:
        """Whether it was stored. If not, another writer took the slot."""
        return self.generation > 0


@dataclasses.dataclass(frozen=True, eq=False)
class CachedRankRequest:
    """A prefetched user and the items to score for them.

    Attributes:
        user_id: the user.
        candidate_item_ids: items to score, at least one, without 0.
        context: features of the request, by declared name.
        candidates: features of the candidates, by declared name, each as long
            as `candidate_item_ids`.

    Raises:
        RequestError: a field has a wrong value.
    """

    user_id: Id
    candidate_item_ids: IdList
    context: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    candidates: Mapping[str, Values] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        set_checked(self, **scoring_fields(self))


@dataclasses.dataclass(frozen=True, eq=False)
class CachedRankResult(RankResult):
    """Scores of one request with a cached history.

    Attributes:
        cache_hit: whether the history was cached. If not, all scores are 0
            and have no meaning.
        generation: generation of the history that was used; 0 for a miss.
    """

    cache_hit: bool
    generation: int


@dataclasses.dataclass(frozen=True, eq=False)
class UserCacheStats:
    """State of the user cache of the served version.

    Attributes:
        cached_length: int32 (B,), behaviors of each user; -1 if not cached.
        generation: int64 (B,), 0 if not cached.
        age_seconds: float32 (B,), time since the prefetch.
        capacity: maximum number of users.
        occupied: number of cached users.
        max_length: maximum number of behaviors of a user.
        bytes: memory of the cache.
        hits: rankings whose user was cached.
        misses: rankings whose user was not cached.
        prefetches: histories written.
        evictions: users removed to make room for others.
        expired: entries that were too old.
        mixed: reads rejected because of a concurrent write.
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
"""Fields of `UserCacheStats` that describe the whole cache."""


@dataclasses.dataclass(frozen=True, eq=False)
class ResolvedItems:
    """Rows of items in the item table of the served version.

    Attributes:
        rows: int32 (N,), 0 for an unknown item.
        table_stamp: number that identifies the table. `prefetch` rejects rows
            of another table.
    """

    rows: np.ndarray
    table_stamp: int


def _prefetch_inputs(
    requests: Sequence[PrefetchRequest], declared: SignatureInputs
) -> dict[str, np.ndarray]:
    """Pads requests, all by ids or all by rows; rows are padded with -1."""
    inputs: dict[str, np.ndarray]
    if requests[0].by_rows:
        width = max(1, *map(len, requests))
        rows = np.full((len(requests), width), -1, np.int32)
        for row, request in zip(rows, requests, strict=True):
            row[: len(request)] = np.asarray(request.behavior_rows)
        stamps = [request.table_stamp for request in requests]
        inputs = {
            "behavior_rows": rows,
            "table_stamp": np.array(stamps, np.int64),
        }
    else:
        items = history_ids(requests, declared)
        width = items.shape[1]
        inputs = {"behavior_item_ids": items}
    return {**behavior_inputs(requests, width, declared), **inputs}


def _prefetch_result(
    _: PrefetchRequest, outputs: Outputs, row: int
) -> PrefetchResult:
    return PrefetchResult(
        cached_length=int(column(outputs, "cached_length", row + 1)[row]),
        generation=int(column(outputs, "generation", row + 1)[row]),
    )


def _cached_rank_inputs(
    requests: Sequence[CachedRankRequest], declared: SignatureInputs
) -> dict[str, np.ndarray]:
    return {
        "user_id": declared.user_ids(requests),
        **candidate_inputs(requests, declared),
    }


def _cached_rank_result(
    request: CachedRankRequest, outputs: Outputs, row: int
) -> CachedRankResult:
    return CachedRankResult(
        **scored(request, outputs, row),
        cache_hit=bool(column(outputs, "cache_hit", row + 1)[row]),
        generation=int(column(outputs, "generation", row + 1)[row]),
    )


PREFETCH = RowSignature(
    PrefetchRequest,
    lambda request: "prefetch_rows" if request.by_rows else "prefetch",
    lambda request: (
        len(request) + sum(map(number_of_values, request.behaviors.values())),
        0,
    ),
    _prefetch_inputs,
    _prefetch_result,
)
RANK_CACHED = RowSignature(
    CachedRankRequest,
    lambda _: "rank_cached",
    lambda request: (0, candidate_size(request)),
    _cached_rank_inputs,
    _cached_rank_result,
)


def user_cache_plan(
    target: Target, user_ids: IdList, declaration: Declaration
) -> Plan[UserCacheStats]:
    """Returns the state of the cache."""
    given = some_ids("user_ids", user_ids)
    ids = declaration.ids("user_id", "user_ids", given)

    outputs = yield Predict(target, "user_cache", {"user_id": ids})
    users = {name: column(outputs, name, len(ids)) for name in _PER_USER}
    counts = {
        name: int(column(outputs, name, 1)[0]) for name in CACHE_STATISTICS
    }
    return UserCacheStats(**users, **counts)  # type: ignore[arg-type]


def resolve_items_plan(
    target: Target, item_ids: IdList, limits: Limits, declaration: Declaration
) -> Plan[ResolvedItems]:
    """Finds the rows of items."""
    ids = declaration.ids("item_id", "item_ids", some_ids("item_ids", item_ids))
    rows, stamps = [], set()
    for start in range(0, len(ids), limits.ids):
        part = ids[start : start + limits.ids]
        answer = yield Predict(target, "resolve_items", {"item_ids": part})
        rows.append(column(answer, "row", len(part)))
        stamps.update(column(answer, "table_stamp", len(part)).tolist())
    if len(stamps) != 1:
        raise ResponseError(
            f"the rows come from {len(stamps)} item tables; the version was "
            "swapped between two calls"
        )
    return ResolvedItems(rows=np.concatenate(rows), table_stamp=stamps.pop())
