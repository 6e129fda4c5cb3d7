"""What every signature of a served ranker must answer.

A check calls one signature of the validator's own server and compares the
answers with the trainer's scores, or with the item table. What a call changes
stays in that server and ends with it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from muse_keras.tables import ItemTable
from serving import client as client_lib

__all__ = [
    "CHECKS",
    "Replay",
    "WrongAnswer",
    "exported_signatures",
    "rank_ms",
    "worst_differences",
]

_BATCH = 16
_REQUIRED = ("rank", "serving_default")


class WrongAnswer(Exception):
    """The model answers what it must not; the text is the verdict."""


class Replay(NamedTuple):
    """One request, and what is known of its answer.

    Attributes:
        example: the serialized Example.
        request: the same request.
        expected: float32 (C,), the trainer's scores.
    """

    example: bytes
    request: client_lib.RankRequest
    expected: npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class _Server:
    """What a check works with.

    Attributes:
        client: of the server.
        replays: the requests.
        table: the item table that the model was exported with.
    """

    client: client_lib.MuseClient
    replays: Sequence[Replay]
    table: ItemTable

    def chunks(self) -> Iterator[Sequence[Replay]]:
        """Yields the requests, several at a time."""
        for start in range(0, len(self.replays), _BATCH):
            yield self.replays[start : start + _BATCH]

    def some_items(self) -> npt.NDArray[np.int64]:
        """Returns ids of requests, and at the end one that no item has."""
        first = self.replays[:_BATCH]
        ids = [np.asarray(one.request.candidate_item_ids) for one in first]
        return np.append(np.unique(np.concatenate(ids)), self.unused_item())

    def unused_item(self) -> int:
        """Returns an id that the item table has not."""
        ids = np.random.default_rng(0).integers(1, 1 << 62, size=64)
        return int(ids[self.table.rows(ids) == 0][0])

    def vectors(self, item_ids: npt.NDArray[np.int64]) -> npt.NDArray:
        """Returns the table's vectors, float32 (N, D)."""
        codes = self.table.codes[self.table.rows(item_ids)]
        return codes.astype(np.float32) * np.float32(self.table.scale)


def worst_differences(
    client: client_lib.MuseClient, replays: Sequence[Replay], table: ItemTable
) -> dict[str, float]:
    """Checks every signature of the served model.

    Args:
        client: of the server, which gets no other calls.
        replays: at least one request.
        table: the item table that the model was exported with.

    Returns:
        The largest difference by signature; infinity for no number.

    Raises:
        WrongAnswer: an answer is not a matter of degree.
        ValueError: a signature has no check.
    """
    exported = exported_signatures(client)
    if unknown := sorted(exported - set(CHECKS)):
        raise ValueError(
            f"ServingValidator has no check of the signature {unknown[0]!r}; "
            f"add one to {__name__}.CHECKS."
        )
    for name in _REQUIRED:
        if name not in exported:
            raise WrongAnswer(f"the model has no signature {name!r}")
    server = _Server(client, replays, table)
    return {
        name: check(server)
        for name, check in CHECKS.items()
        if name in exported
    }


def exported_signatures(client: client_lib.MuseClient) -> set[str]:
    """Returns the names of a model's signatures, but for TensorFlow's own."""
    names = client.metadata().signatures
    return {name for name in names if not name.startswith("__")}


def rank_ms(
    client: client_lib.MuseClient, replays: Sequence[Replay]
) -> dict[str, float]:
    """Measures `rank`, one request per call, in milliseconds.

    Every request is sent twice, and the second call counts: the first of a
    shape is slower.
    """
    for _ in range(2):
        times = []
        for replay in replays:
            began = time.perf_counter()
            client.rank(replay.request)
            times.append(1e3 * (time.perf_counter() - began))
    return {
        "p50": float(np.percentile(times, 50)),
        "p99": float(np.percentile(times, 99)),
    }


def _difference(answer: npt.ArrayLike, expected: np.ndarray | float) -> float:
    apart = np.abs(np.asarray(answer, np.float64) - expected)
    # No number is the worst answer of all.
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0))


def _serving_default(server: _Server) -> float:
    return max(
        _difference(answer.click_probability, replay.expected)
        for chunk in server.chunks()
        for answer, replay in zip(
            server.client.predict_examples([one.example for one in chunk]),
            chunk,
            strict=True,
        )
    )


def _rank(server: _Server) -> float:
    return max(
        _difference(answer.click_probability, replay.expected)
        for chunk in server.chunks()
        for answer, replay in zip(
            server.client.rank([one.request for one in chunk]),
            chunk,
            strict=True,
        )
    )


def _explain(server: _Server) -> float:
    worst = 0.0
    for chunk in server.chunks():
        answers = server.client.explain([one.request for one in chunk])
        for answer, replay in zip(answers, chunk, strict=True):
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
            worst = max(
                worst, _difference(answer.click_probability, replay.expected)
            )
    return worst


def _prefetch(server: _Server) -> float:
    return max(
        _cached(
            server,
            replay,
            client_lib.PrefetchRequest(
                replay.request.user_id,
                replay.request.user_profile,
                replay.request.behavior_item_ids,
                replay.request.behavior_category_ids,
            ),
        )
        for replay in server.replays
    )


def _prefetch_rows(server: _Server) -> float:
    worst = 0.0
    for replay in server.replays[:_BATCH]:
        ids = np.asarray(replay.request.behavior_item_ids)
        real = np.flatnonzero(ids)
        if not len(real):
            continue
        found = server.client.resolve_items(ids[real])
        history = client_lib.PrefetchRequest(
            replay.request.user_id,
            replay.request.user_profile,
            None,
            np.asarray(replay.request.behavior_category_ids)[real],
            behavior_rows=found.rows,
            table_stamp=found.table_stamp,
        )
        worst = max(worst, _cached(server, replay, history))
    return worst


def _cached(
    server: _Server, replay: Replay, history: client_lib.PrefetchRequest
) -> float:
    """Prefetches a user, ranks from the cache; returns the difference."""
    user = replay.request.user_id
    kept = server.client.prefetch(history)
    answer = server.client.rank_cached(
        client_lib.CachedRankRequest(user, replay.request.candidate_item_ids)
    )
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
        categories = np.asarray(replay.request.behavior_category_ids)
        shorter = dataclasses.replace(
            replay.request,
            behavior_item_ids=ids[newest],
            behavior_category_ids=categories[newest],
        )
        expected = server.client.rank(shorter).click_probability
    return _difference(answer.click_probability, expected)


def _unknown_user(server: _Server) -> int:
    """Returns the smallest positive id of no replayed user."""
    users = {replay.request.user_id for replay in server.replays}
    return next(i for i in range(1, len(users) + 2) if i not in users)


def _rank_cached(server: _Server) -> float:
    """A user who was not prefetched is a miss, without scores."""
    candidates = server.replays[0].request.candidate_item_ids
    answer = server.client.rank_cached(
        client_lib.CachedRankRequest(_unknown_user(server), candidates)
    )
    if answer.cache_hit or answer.generation:
        raise WrongAnswer("rank_cached: a hit of a user who is not prefetched")
    return _difference(answer.click_probability, 0.0)


def _user_cache(server: _Server) -> float:
    """Nothing is known of a user who was not prefetched."""
    state = server.client.user_cache([_unknown_user(server)])
    if state.cached_length[0] != -1 or state.generation[0]:
        raise WrongAnswer("user_cache: it knows a user who is not prefetched")
    return 0.0


def _resolve_items(server: _Server) -> float:
    ids = server.some_items()
    found = server.client.resolve_items(ids).rows
    return _difference(found, server.table.rows(ids))


def _embed(server: _Server) -> float:
    ids = server.some_items()
    answer, vectors = server.client.embed(ids), server.vectors(ids)
    if not np.array_equal(answer.found, vectors.any(axis=1)):
        raise WrongAnswer("embed: `found` is not what the item table has")
    return _difference(answer.embedding, vectors)


def _upsert_items(server: _Server) -> float:
    """A new item has the vector it was given, and changes no other item."""
    known, new = server.some_items()[:1], server.unused_item()
    vector = server.vectors(known)
    if not vector.any():
        vector = np.eye(1, server.table.dim, dtype=np.float32)
    row = server.table.rows(known)
    stored = server.client.upsert_items(
        [new],
        vector,
        *(server.table.features[name][row] for name in server.table.features),
    ).stored
    answer = server.client.embed([new])
    if not (stored.all() and answer.found.all()):
        raise WrongAnswer(f"upsert_items: item {new} is not there afterwards")
    request = dataclasses.replace(
        server.replays[0].request, candidate_item_ids=[new]
    )
    score = server.client.rank(request).click_probability
    if not ((score >= 0) & (score <= 1)).all():
        raise WrongAnswer(f"upsert_items: item {new} is ranked {score[0]}")
    return max(_difference(answer.embedding, vector), _rank(server))


# In this order: `upsert_items` changes what `resolve_items` and `embed` know.
CHECKS: dict[str, Callable[[_Server], float]] = {
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
"""The check of each signature, in the order in which they are made."""
