"""What each method of a client does, written once for both clients.

A plan is a generator. It yields calls, is sent their answers and returns the
result of the method. It waits for nothing itself: a driver carries the calls
out, blocking (`MuseClient`) or not (`AsyncMuseClient`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from serving.client.batches import (
    Limits,
    explain_result,
    group,
    rank_inputs,
    rank_result,
    split,
)
from serving.client.errors import RequestError, ResponseError
from serving.client.matching import (
    RecommendRequest,
    RecommendResult,
    query_array,
    recommend_inputs,
    recommend_result,
)
from serving.client.outputs import named_output
from serving.client.types import (
    EmbedResult,
    IntegerList,
    ModelMetadata,
    RankRequest,
    RankResult,
    VersionStatus,
    id_array,
)
from serving.client.upserts import UpsertResult, joined_result, upsert_inputs
from serving.client.user_cache import (
    CachedRankRequest,
    PrefetchRequest,
    ResolvedItems,
    UserCacheStats,
    cached_rank_inputs,
    cached_rank_result,
    prefetch_inputs,
    prefetch_result,
    resolved_items,
    user_cache_stats,
)
from serving.client.wire_grpc import Target

__all__ = [
    "Call",
    "Plan",
    "embed",
    "explain",
    "metadata",
    "predict",
    "predict_examples",
    "prefetch",
    "rank",
    "rank_cached",
    "recommend",
    "resolve_items",
    "search",
    "status",
    "upsert_items",
    "user_cache",
]

_T = TypeVar("_T")
_Request = TypeVar("_Request")
Outputs = Mapping[str, np.ndarray]

Call = Callable[[Any, float], Any]
"""Carries out one attempt: takes a transport and seconds, gives its answer (or
what gives it when awaited)."""

Plan = Generator[Call, Any, _T]


def predict(
    target: Target,
    signature: str,
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str] = (),
) -> Plan[dict[str, np.ndarray]]:
    """Runs a signature."""
    found: dict[str, np.ndarray] = (
        yield lambda transport, seconds: transport.predict(
            target, signature, inputs, outputs, seconds
        )
    )
    return found


def metadata(target: Target) -> Plan[ModelMetadata]:
    """Asks for the signatures."""
    found: ModelMetadata = yield lambda transport, seconds: transport.metadata(
        target, seconds
    )
    return found


def status(target: Target) -> Plan[list[VersionStatus]]:
    """Asks for the states of the versions."""
    found: list[VersionStatus] = (
        yield lambda transport, seconds: transport.status(target, seconds)
    )
    return found


def rank(target: Target, requests: Any, limits: Limits) -> Plan[Any]:
    """Scores candidates."""
    return (yield from _scored(target, "rank", requests, limits, rank_result))


def explain(target: Target, requests: Any, limits: Limits) -> Plan[Any]:
    """Scores candidates, and tells what the scores rest on."""
    return (
        yield from _scored(target, "explain", requests, limits, explain_result)
    )


def rank_cached(target: Target, requests: Any, limits: Limits) -> Plan[Any]:
    """Scores candidates for prefetched users."""

    def ask(chosen: list[CachedRankRequest]) -> Plan[list[Any]]:
        outputs = yield from predict(
            target, "rank_cached", cached_rank_inputs(chosen)
        )
        return [
            cached_rank_result(request, outputs, row)
            for row, request in enumerate(chosen)
        ]

    def batches(given: list[CachedRankRequest]) -> Iterable[list[int]]:
        sizes = [len(request.candidate_item_ids) for request in given]
        return group([0] * len(given), sizes, limits)

    return (yield from _each(CachedRankRequest, requests, batches, ask))


def prefetch(target: Target, requests: Any, limits: Limits) -> Plan[Any]:
    """Keeps histories in the model; those by id and by row go apart."""

    def ask(chosen: list[PrefetchRequest]) -> Plan[list[Any]]:
        signature = "prefetch_rows" if chosen[0].by_rows else "prefetch"
        outputs = yield from predict(target, signature, prefetch_inputs(chosen))
        return [prefetch_result(outputs, row) for row in range(len(chosen))]

    def batches(given: list[PrefetchRequest]) -> Iterable[list[int]]:
        for by_rows in (False, True):
            places = [i for i, r in enumerate(given) if r.by_rows == by_rows]
            sizes = [2 * len(given[place]) for place in places]
            for batch in group(sizes, [0] * len(sizes), limits):
                yield [places[index] for index in batch]

    return (yield from _each(PrefetchRequest, requests, batches, ask))


def user_cache(target: Target, user_ids: IntegerList) -> Plan[UserCacheStats]:
    """Asks what is in the cache."""
    ids = _some_ids("user_ids", user_ids)
    outputs = yield from predict(target, "user_cache", {"user_id": ids})
    return user_cache_stats(outputs, len(ids))


def resolve_items(
    target: Target, item_ids: IntegerList, limits: Limits
) -> Plan[ResolvedItems]:
    """Finds the rows of items."""
    ids = _some_ids("item_ids", item_ids)
    parts = [
        ids[start : start + limits.cells]
        for start in range(0, len(ids), limits.cells)
    ]
    answers = []
    for part in parts:
        answers.append(
            (yield from predict(target, "resolve_items", {"item_ids": part}))
        )
    return resolved_items(answers, [len(part) for part in parts])


def embed(target: Target, item_ids: IntegerList) -> Plan[EmbedResult]:
    """Looks up the vectors of items."""
    ids = _some_ids("item_ids", item_ids)
    outputs = yield from predict(target, "embed", {"item_ids": ids})
    return EmbedResult(
        embedding=named_output(outputs, "embedding"),
        found=named_output(outputs, "found"),
    )


def upsert_items(
    target: Target,
    item_ids: IntegerList,
    embedding: Sequence[Sequence[float]] | np.ndarray,
    features: Mapping[str, IntegerList | None],
    limits: Limits,
) -> Plan[UpsertResult]:
    """Adds items, or replaces them."""
    inputs = upsert_inputs(item_ids, embedding, features)
    count = len(inputs["item_ids"])
    answers = []
    for start in range(0, count, limits.items):
        part = {
            name: values[start : start + limits.items]
            for name, values in inputs.items()
        }
        answers.append((yield from predict(target, "upsert_items", part)))
    return joined_result(answers, count)


def predict_examples(
    target: Target, examples: Sequence[bytes]
) -> Plan[list[RankResult]]:
    """Scores serialised Examples."""
    for index, example in enumerate(examples):
        if not isinstance(example, bytes):
            raise RequestError(f"examples[{index}]", "be bytes", example)
    if not examples:
        return []
    array = np.empty(len(examples), object)
    array[:] = list(examples)
    outputs = yield from predict(target, "serving_default", {"examples": array})
    scores = named_output(outputs, "click_probability")
    ids = named_output(outputs, "candidate_item_ids")
    if ids.shape != scores.shape or len(ids) != len(examples):
        raise ResponseError(
            f"scores {scores.shape} and candidates {ids.shape} do not "
            f"fit {len(examples)} examples"
        )
    return [
        RankResult(row_ids[row_ids != 0], row[row_ids != 0])
        for row_ids, row in zip(ids, scores, strict=True)
    ]


def recommend(target: Target, requests: Any, limits: Limits) -> Plan[Any]:
    """Finds candidates for users."""

    def ask(chosen: list[RecommendRequest]) -> Plan[list[Any]]:
        outputs = yield from predict(
            target, "recommend", recommend_inputs(chosen)
        )
        return [
            recommend_result(outputs, row, request.num_candidates)
            for row, request in enumerate(chosen)
        ]

    def batches(given: list[RecommendRequest]) -> Iterable[list[int]]:
        lengths = [len(request.behavior_item_ids) for request in given]
        return group(lengths, [0] * len(given), limits)

    return (yield from _each(RecommendRequest, requests, batches, ask))


def search(
    target: Target, query_vectors: np.ndarray, num_candidates: int | None
) -> Plan[list[RecommendResult]]:
    """Finds the items most similar to vectors."""
    queries = query_array(query_vectors)
    outputs = yield from predict(target, "search", {"query_vector": queries})
    return [
        recommend_result(outputs, row, num_candidates)
        for row in range(len(queries))
    ]


def _scored(
    target: Target,
    signature: str,
    requests: Any,
    limits: Limits,
    result: Callable[[RankRequest, Outputs, int], Any],
) -> Plan[Any]:
    def ask(chosen: list[RankRequest]) -> Plan[list[Any]]:
        outputs = yield from predict(target, signature, rank_inputs(chosen))
        return [
            result(request, outputs, row) for row, request in enumerate(chosen)
        ]

    return (
        yield from _each(
            RankRequest, requests, lambda given: split(given, limits), ask
        )
    )


def _each(
    kind: type[_Request],
    requests: Any,
    batches: Callable[[list[_Request]], Iterable[list[int]]],
    ask: Callable[[list[_Request]], Plan[list[Any]]],
) -> Plan[Any]:
    """One request gives one result, several give a list in their order."""
    single = isinstance(requests, kind)
    given: list[_Request] = [requests] if single else list(requests)
    for index, request in enumerate(given):
        if not isinstance(request, kind):
            raise RequestError(
                f"requests[{index}]", f"be a {kind.__name__}", request
            )
    results: list[Any] = [None] * len(given)
    for batch in batches(given):
        answers = yield from ask([given[index] for index in batch])
        for index, answer in zip(batch, answers, strict=True):
            results[index] = answer
    return results[0] if single else results


def _some_ids(field: str, values: IntegerList) -> np.ndarray:
    ids = id_array(field, values)
    if ids.size == 0:
        raise RequestError(field, "hold at least one id", [])
    return ids
