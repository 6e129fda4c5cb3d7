"""Checks every signature of a served ranker.

A check calls one signature of the validator's own server, compares the answers
with the trainer's scores or with the item table, and returns the largest
difference. Calls that change the model affect only that server.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from muse_keras.tables import ItemTable
from serving import client as client_lib

REQUIRED = ("rank", "serving_default")
"""Signatures that every ranker has."""

Scores = Mapping[str, npt.NDArray[np.float32]]
_BATCH = 16
_Served = TypeVar("_Served")


class WrongAnswer(Exception):
    """The model gives a wrong answer; the text is the verdict."""


class Replay(NamedTuple):
    """One request and its expected answer.

    Attributes:
        example: the serialized Example.
        request: the same request, with the candidates that share a context.
        scores: the trainer's scores of all candidates, by label.
        places: int64 (C,), positions of the request's candidates in `scores`.
    """

    example: bytes
    request: client_lib.RankRequest
    scores: Scores
    places: npt.NDArray[np.int64]

    @property
    def expected(self) -> Scores:
        """The trainer's scores of the candidates of the request."""
        return {
            label: values[self.places] for label, values in self.scores.items()
        }


@dataclasses.dataclass(frozen=True)
class Ranker:
    """A served ranker and its expected answers.

    Attributes:
        client: client of the server.
        replays: the requests, at least one.
        table: the item table with which the model was exported.
    """

    client: client_lib.MuseClient
    replays: Sequence[Replay]
    table: ItemTable

    def answers(
        self, ask: Callable[[Sequence[Replay]], Sequence[Any]]
    ) -> Iterator[tuple[Any, Replay]]:
        """Yields the answer to each request; requests are sent in batches."""
        for start in range(0, len(self.replays), _BATCH):
            chunk = self.replays[start : start + _BATCH]
            yield from zip(ask(chunk), chunk, strict=True)

    def differences(self) -> dict[str, float]:
        """Checks every signature; see `worst_differences`."""
        return worst_differences(self.client, self, CHECKS, REQUIRED)

    def rank_ms(self) -> dict[str, float]:
        """Measures `rank`, one request per call, in milliseconds.

        Every request is sent twice and the second call is measured, because
        the first call with a shape is slower.
        """
        for _ in range(2):
            times = []
            for replay in self.replays:
                began = time.perf_counter()
                self.client.rank(replay.request)
                times.append(1e3 * (time.perf_counter() - began))
        return {
            "p50": float(np.percentile(times, 50)),
            "p99": float(np.percentile(times, 99)),
        }

    def some_items(self) -> npt.NDArray[np.int64]:
        """Returns item ids of requests, followed by an unknown id."""
        first = self.replays[:_BATCH]
        ids = [np.asarray(one.request.candidate_item_ids) for one in first]
        return np.append(np.unique(np.concatenate(ids)), self.unused_item())

    def unused_item(self) -> int:
        """Returns an id that is not in the item table."""
        ids = np.random.default_rng(0).integers(1, 1 << 62, size=64)
        return int(ids[self.table.rows(ids) == 0][0])

    def vectors(self, item_ids: npt.NDArray[np.int64]) -> npt.NDArray:
        """Returns the table's vectors, float32 (N, D)."""
        codes = self.table.codes[self.table.rows(item_ids)]
        return codes.astype(np.float32) * np.float32(self.table.scale)


def worst_differences(
    client: client_lib.MuseClient,
    served: _Served,
    checks: Mapping[str, Callable[[_Served], float]],
    required: Collection[str],
) -> dict[str, float]:
    """Checks every signature of a served model, in the order of the checks.

    Returns:
        The largest difference by signature; infinity for NaN.

    Raises:
        WrongAnswer: an answer is wrong in a way that is not a difference of
            numbers, or the model lacks a required signature.
        ValueError: a signature has no check.
    """
    exported = {
        name
        for name in client.metadata().signatures
        # Signatures of TensorFlow.
        if not name.startswith("__")
    }
    if unknown := sorted(exported - checks.keys()):
        raise ValueError(
            f"ServingValidator has no check of the signature {unknown[0]!r}; "
            f"add one to {__name__}.CHECKS."
        )
    for name in required:
        if name not in exported:
            raise WrongAnswer(f"the model has no signature {name!r}")
    return {
        name: check(served)
        for name, check in checks.items()
        if name in exported
    }


def difference(answer: npt.ArrayLike, expected: np.ndarray | float) -> float:
    """Returns the largest absolute difference; infinity for NaN."""
    apart = np.abs(np.asarray(answer, np.float64) - expected)
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0))


def _worst_score(answers: Iterable[tuple[Any, Replay]]) -> float:
    return max(
        _score_difference(answer, replay.expected) for answer, replay in answers
    )


def _score_difference(answer: Any, expected: Scores) -> float:
    """Returns the largest difference of any label."""
    given = answer.probabilities
    if set(given) != set(expected):
        raise WrongAnswer(
            f"the model answers the labels {', '.join(sorted(given))}, the "
            f"trainer scored {', '.join(sorted(expected))}"
        )
    return max(
        difference(given[label], values) for label, values in expected.items()
    )


def _serving_default(server: Ranker) -> float:
    answers = server.answers(
        lambda chunk: server.client.predict_examples(
            [one.example for one in chunk]
        )
    )
    return max(
        _score_difference(answer, replay.scores) for answer, replay in answers
    )


def _rank(server: Ranker) -> float:
    return _worst_score(
        server.answers(
            lambda chunk: server.client.rank([one.request for one in chunk])
        )
    )


def _explain(server: Ranker) -> float:
    answers = list(
        server.answers(
            lambda chunk: server.client.explain([one.request for one in chunk])
        )
    )
    for answer, replay in answers:
        history = np.asarray(replay.request.behavior_item_ids)
        places = answer.behavior_indices[answer.retrieved]
        if (places >= len(history)).any() or not history[places].all():
            raise WrongAnswer(
                f"explain: user {replay.request.user_id}: "
                "`behavior_indices` name behaviors that are not there"
            )
        for name in ("similarities", "attention", "tiers"):
            if not np.isfinite(getattr(answer, name)).all():
                raise WrongAnswer(f"explain: `{name}` is not finite")
    return _worst_score(answers)


def _prefetch(server: Ranker) -> float:
    return max(
        _cached(
            server,
            replay,
            client_lib.PrefetchRequest(
                replay.request.user_id,
                replay.request.behavior_item_ids,
                replay.request.user,
                replay.request.behaviors,
            ),
        )
        for replay in server.replays
    )


def _prefetch_rows(server: Ranker) -> float:
    worst = 0.0
    for replay in server.replays[:_BATCH]:
        ids = np.asarray(replay.request.behavior_item_ids)
        real = np.flatnonzero(ids)
        if not len(real):
            continue
        found = server.client.resolve_items(ids[real])
        history = client_lib.PrefetchRequest(
            replay.request.user_id,
            user=replay.request.user,
            behaviors=_some(replay.request.behaviors, real),
            behavior_rows=found.rows,
            table_stamp=found.table_stamp,
        )
        worst = max(worst, _cached(server, replay, history))
    return worst


def _cached(
    server: Ranker, replay: Replay, history: client_lib.PrefetchRequest
) -> float:
    """Prefetches a user and ranks from the cache; returns the difference."""
    user = int(replay.request.user_id)
    kept = server.client.prefetch(history)
    answer = server.client.rank_cached(_cached_request(replay.request, user))
    state = server.client.user_cache([user])
    told = int(state.cached_length[0]), int(state.generation[0])
    if not answer.cache_hit or answer.generation != kept.generation:
        raise WrongAnswer(f"rank_cached: a miss of user {user}, prefetched")
    if told != (kept.cached_length, kept.generation):
        raise WrongAnswer(
            f"user_cache: user {user} has length and generation "
            f"{(kept.cached_length, kept.generation)}. Received: {told}"
        )
    expected = replay.expected
    if len(history) > state.max_length:
        ids = np.asarray(replay.request.behavior_item_ids)
        newest = np.flatnonzero(ids)[-state.max_length :]
        shorter = dataclasses.replace(
            replay.request,
            behavior_item_ids=ids[newest],
            behaviors=_some(replay.request.behaviors, newest),
        )
        expected = server.client.rank(shorter).probabilities
    return _score_difference(answer, expected)


def _cached_request(
    request: client_lib.RankRequest, user_id: int
) -> client_lib.CachedRankRequest:
    """Returns the same request for a user whose history is cached."""
    return client_lib.CachedRankRequest(
        user_id,
        request.candidate_item_ids,
        context=request.context,
        candidates=request.candidates,
    )


def _some(
    features: Mapping[str, Any], places: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[Any]]:
    return {
        name: np.asarray(values)[places] for name, values in features.items()
    }


def _unknown_user(server: Ranker) -> int:
    """Returns the smallest positive id that no replayed user has."""
    users = {replay.request.user_id for replay in server.replays}
    return next(i for i in range(1, len(users) + 2) if i not in users)


def _rank_cached(server: Ranker) -> float:
    """Checks that a user without a prefetch is a miss and gets no scores."""
    request = server.replays[0].request
    answer = server.client.rank_cached(
        _cached_request(request, _unknown_user(server))
    )
    if answer.cache_hit or answer.generation:
        raise WrongAnswer("rank_cached: a hit for a user without a prefetch")
    return max(
        difference(values, 0.0) for values in answer.probabilities.values()
    )


def _user_cache(server: Ranker) -> float:
    """Checks that a user without a prefetch is not in the cache."""
    state = server.client.user_cache([_unknown_user(server)])
    if state.cached_length[0] != -1 or state.generation[0]:
        raise WrongAnswer("user_cache: it has a user without a prefetch")
    return 0.0


def _resolve_items(server: Ranker) -> float:
    ids = server.some_items()
    found = server.client.resolve_items(ids).rows
    return difference(found, server.table.rows(ids))


def _embed(server: Ranker) -> float:
    ids = server.some_items()
    answer, vectors = server.client.embed(ids), server.vectors(ids)
    if not np.array_equal(answer.found, vectors.any(axis=1)):
        raise WrongAnswer("embed: `found` is not what the item table has")
    return difference(answer.embedding, vectors)


def _upsert_items(server: Ranker) -> float:
    """Checks that a new item has its vector and changes no other item."""
    known, new = server.some_items()[:1], server.unused_item()
    vector = server.vectors(known)
    if not vector.any():
        vector = np.eye(1, server.table.dim, dtype=np.float32)
    row = server.table.rows(known)
    inputs = server.client.metadata().signatures["upsert_items"].inputs
    features = {
        name: values[row]
        for name, values in server.table.features.items()
        if f"item_{name}" in inputs
    }
    stored = server.client.upsert_items([new], vector, features).stored
    answer = server.client.embed([new])
    if not (stored.all() and answer.found.all()):
        raise WrongAnswer(f"upsert_items: item {new} is not there afterwards")
    first = server.replays[0].request
    request = dataclasses.replace(
        first,
        candidate_item_ids=[new],
        candidates={name: one[:1] for name, one in first.candidates.items()},
    )
    for score in server.client.rank(request).probabilities.values():
        if not ((score >= 0) & (score <= 1)).all():
            raise WrongAnswer(f"upsert_items: item {new} is ranked {score[0]}")
    return max(difference(answer.embedding, vector), _rank(server))


# `upsert_items` is last: it changes the answers of `resolve_items` and `embed`.
CHECKS: dict[str, Callable[[Ranker], float]] = {
    "serving_default": _serving_default,
    "rank": _rank,
    "explain": _explain,
    "prefetch": _prefetch,
    "rank_cached": _rank_cached,
    "user_cache": _user_cache,
    "resolve_items": _resolve_items,
    "prefetch_rows": _prefetch_rows,
    "embed": _embed,
    "upsert_items": _upsert_items,
}
"""The check of each signature, in the order of execution."""
