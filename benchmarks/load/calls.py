"""Calls of each kind of load, made by one function each."""

from __future__ import annotations

import dataclasses
from typing import Any

import grpc.aio
import numpy as np

from benchmarks.load.loops import Call
from benchmarks.load.workload import User, Workload
from benchmarks.peers import raw_echo
from serving.client import (
    AsyncMuseClient,
    AsyncRankingClient,
    CachedRankRequest,
    PrefetchRequest,
    RankingRequest,
    RankRequest,
    RecommendRequest,
    wire_grpc,
)
from serving.client.batches import rank_inputs

MATCHED_BEHAVIORS = 50
"""Newest behaviors that retrieval gets, as the ranking service gives them."""
MATCHING_MODEL = "matching"


@dataclasses.dataclass(frozen=True)
class Clients:
    """The clients of all servers.

    Attributes:
        muse: the model server, by gRPC.
        muse_rest: the same by REST.
        noop: a model server whose model does nothing.
        service: the ranking service.
        raw: a server that looks at no byte of a request, `host:port`.
        deadline_ms: of requests to the ranking service.
    """

    muse: AsyncMuseClient | None = None
    muse_rest: AsyncMuseClient | None = None
    noop: AsyncMuseClient | None = None
    service: AsyncRankingClient | None = None
    raw: str = ""
    deadline_ms: float = 5_000.0


def rank(clients: Clients, workload: Workload) -> Call:
    """Rank with the whole history in the request."""
    return _ranking(clients.muse, workload)


def rank_by_rest(clients: Clients, workload: Workload) -> Call:
    """Rank with the whole history in the request, by REST."""
    return _ranking(clients.muse_rest, workload)


def noop(clients: Clients, workload: Workload) -> Call:
    """Send the requests of `rank` to a model that does nothing."""
    return _ranking(clients.noop, workload)


def _ranking(client: AsyncMuseClient | None, workload: Workload) -> Call:
    there = _there(client)

    async def call() -> None:
        await there.rank(rank_request(*workload.next()))

    return call


def raw(clients: Clients, workload: Workload) -> Call:
    """Send the bytes of `rank` to a server that does not look at them."""
    request = rank_request(*workload.next())
    message = wire_grpc.predict_request(
        wire_grpc.Target("muse"), "rank", rank_inputs([request])
    )
    method: Any = None

    async def call() -> None:
        nonlocal method
        if method is None:  # A channel belongs to the loop it is made in.
            channel = grpc.aio.insecure_channel(
                clients.raw, [("grpc.max_send_message_length", -1)]
            )
            method = channel.unary_unary(raw_echo.METHOD)
        await method(message)

    return call


def rank_cached(clients: Clients, workload: Workload) -> Call:
    """Rank from the cache; on a miss, prefetch and rank from the cache."""
    client = _there(clients.muse)

    async def call() -> str:
        user, candidates = workload.next()
        request = CachedRankRequest(user.user_id, candidates)
        if (await client.rank_cached(request)).cache_hit:
            return "hit"
        await client.prefetch(prefetch_request(user))
        await client.rank_cached(request)
        return "miss"

    return call


def prefetch(clients: Clients, workload: Workload) -> Call:
    """Put the history into the cache."""
    client = _there(clients.muse)

    async def call() -> None:
        await client.prefetch(prefetch_request(workload.next()[0]))

    return call


def match_then_rank(clients: Clients, workload: Workload) -> Call:
    """Ask for candidates, then rank with the whole history in the request."""
    client = _there(clients.muse)

    async def call() -> None:
        user, candidates = workload.next()
        found = await client.recommend(
            RecommendRequest(
                user.item_ids[-MATCHED_BEHAVIORS:], len(candidates)
            ),
            model=MATCHING_MODEL,
        )
        await client.rank(rank_request(user, found.candidate_item_ids))

    return call


def service(clients: Clients, workload: Workload) -> Call:
    """Ask the ranking service, which retrieves and prefetches at once."""
    client = _there(clients.service)

    async def call() -> str:
        user, candidates = workload.next()
        result = await client.rank(
            RankingRequest(
                user.user_id,
                num_candidates=len(candidates),
                deadline_ms=clients.deadline_ms,
            )
        )
        return result.path

    return call


KINDS = {
    function.__name__: function
    for function in (
        rank,
        rank_by_rest,
        noop,
        raw,
        rank_cached,
        prefetch,
        match_then_rank,
        service,
    )
}


def rank_request(user: User, candidates: np.ndarray) -> RankRequest:
    """Return a request with the user's whole history."""
    return RankRequest(
        user_id=user.user_id,
        user=user.user,
        behavior_item_ids=user.item_ids,
        behaviors=user.behaviors,
        candidate_item_ids=candidates,
    )


def prefetch_request(user: User) -> PrefetchRequest:
    """Return the user's whole history for the cache."""
    return PrefetchRequest(
        user_id=user.user_id,
        user=user.user,
        behavior_item_ids=user.item_ids,
        behaviors=user.behaviors,
    )


def _there(client: Any) -> Any:
    if client is None:
        raise ValueError("There is no client for this load.")
    return client
