"""Whether all ways of ranking give the same probabilities, before any time."""

from __future__ import annotations

import numpy as np

from benchmarks.load import calls
from benchmarks.load.workload import Workload
from serving.client import (
    CachedRankRequest,
    MuseClient,
    RankingClient,
    RankingRequest,
    Timeouts,
)

TOLERANCE = 1e-5
SLOW = Timeouts(call=60, total=60)


def apart(
    workload: Workload, grpc: str, rest: str, service: str = ""
) -> tuple[float, list[str]]:
    """Rank for one user of each length of history, in every way.

    Args:
        workload: the users.
        grpc: `host:port` of the model server.
        rest: its REST.
        service: of the ranking service, which knows the same users; empty
            leaves it out.

    Returns:
        The largest difference of two probabilities, and what did not come
        from where it should have.
    """
    chosen = {len(user.item_ids): user for user in workload.users}
    differences, problems = [0.0], []
    with (
        MuseClient(grpc, timeouts=SLOW) as by_grpc,
        MuseClient(rest, "rest", timeouts=SLOW) as by_rest,
    ):
        for length, user in chosen.items():
            candidates = workload.candidates[0]
            expected = by_grpc.rank(
                calls.rank_request(user, candidates)
            ).click_probability
            found = [
                by_rest.rank(
                    calls.rank_request(user, candidates)
                ).click_probability
            ]
            stored = by_grpc.prefetch(calls.prefetch_request(user))
            if int(stored.cached_length) != length:
                problems.append(f"{stored.cached_length} of {length} cached")
            for client in (by_grpc, by_rest):
                cached = client.rank_cached(
                    CachedRankRequest(user.user_id, candidates)
                )
                if not cached.cache_hit:
                    problems.append(f"no cached history of {length}")
                found.append(cached.click_probability)
            if service:
                with RankingClient(service) as ranking:
                    answer = ranking.rank(
                        RankingRequest(
                            user.user_id, candidates, deadline_ms=10_000
                        )
                    )
                if answer.path not in ("cached", "full"):
                    problems.append(f"path {answer.path} for {length}")
                found.append(answer.click_probability)
            differences += [
                float(np.abs(expected - values).max()) for values in found
            ]
    return max(differences), problems
