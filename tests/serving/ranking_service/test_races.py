"""Work that overlaps: nothing old is taken for new, nothing waits in vain."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from serving.client import PrefetchResult, RankRequest
from serving.client.ranking import RankingRequest
from serving.ranking_service import RankingService, ServiceConfig
from serving.ranking_service import service as service_module
from serving.ranking_service.targets import by_user
from serving.ranking_service.traces import Recorder
from tests.serving import toy_muse, toy_store
from tests.serving.ranking_service.conftest import fill, settings
from tests.serving.ranking_service.test_failures import silent_server

pytestmark = pytest.mark.once


def recorder(service: RankingService) -> Recorder:
    return Recorder(service._traces.tracer, service.metrics.stages)


def run(site, work, **changes) -> None:
    async def inside() -> None:
        config = ServiceConfig(**settings(site, **changes))
        async with RankingService(config) as service:
            await asyncio.wait_for(work(service), 60)

    asyncio.run(inside())


def test_an_older_prefetch_that_ends_last_is_not_used(site, tmp_path) -> None:
    """Events were appended while it hung; the answer has them."""
    user, candidates = 901, [1, 2, 7]
    features = toy_store.user([1] * 5)
    old = RankRequest(user, candidates, [1, 1], features, {"category": [3, 3]})
    new = RankRequest(
        user, candidates, [1, 1, 7], features, {"category": [3, 3, 5]}
    )
    url = f"lmdb:{tmp_path}/store"
    fill(url, [old])

    async def work(service: RankingService) -> None:
        (target,) = service._parts.targets.all
        prefetch, rank_cached = (
            target.client.prefetch,
            target.client.rank_cached,
        )
        release, ended = asyncio.Event(), asyncio.Event()

        async def late(*arguments, **named):
            await release.wait()
            try:
                return await prefetch(*arguments, **named)
            finally:
                ended.set()

        async def after_the_older(*arguments, **named):
            release.set()
            await ended.wait()
            return await rank_cached(*arguments, **named)

        target.client.prefetch = late
        first = await service.rank(
            RankingRequest(user, candidates, deadline_ms=700)
        )
        assert first.path != "cached"
        target.client.prefetch = prefetch
        target.client.rank_cached = after_the_older
        await service.append_events(user, [7], {"category": [5]})
        answer = await service.rank(RankingRequest(user, candidates))
        outcomes = {stage.name: stage.outcome for stage in answer.stages}
        assert (outcomes["prefetch"], outcomes["rank_cached"]) == ("ok", "miss")
        assert (answer.path, answer.history_length) == ("full", 3)
        np.testing.assert_allclose(
            answer.click_probability, toy_muse.expected_score(new), atol=1e-5
        )
        target.client.rank_cached = rank_cached
        last = await service.rank(RankingRequest(user, candidates))
        assert (last.path, last.history_length) == ("cached", 3)

    run(site, work, store=url, prefetch_timeout_ms=20_000)


def test_no_request_joins_a_prefetch_that_is_being_canceled(site) -> None:
    request = site.request()

    async def work(service: RankingService) -> None:
        prefetches = service._parts.prefetches
        dropped = prefetches.join(request.user_id, recorder(service))
        prefetches.leave(dropped, overloaded=True)
        answer = await service.rank(
            RankingRequest(request.user_id, request.candidate_item_ids)
        )
        assert answer.path == "cached"
        assert dropped.task.cancelled()

    run(site, work)


@pytest.mark.parametrize("error", [asyncio.TimeoutError, ValueError])
def test_events_that_may_be_stored_are_read_anew(site, error) -> None:
    request = site.request()

    async def work(service: RankingService) -> None:
        prefetches = service._parts.prefetches

        async def unsure(*_):
            raise error

        service._parts.histories.append = unsure
        flow = prefetches.join(request.user_id, recorder(service))
        with pytest.raises(error):
            await service.append_events(request.user_id, [1], {"category": [1]})
        assert prefetches.join(request.user_id, recorder(service)) is not flow

    run(site, work)


def test_each_server_counts_its_own_generations(site) -> None:
    async def work(service: RankingService) -> None:
        here, there = service._parts.targets.all
        prefetches = service._parts.prefetches
        prefetches._remember(here, 1, PrefetchResult(10, 5))
        prefetches._remember(there, 1, PrefetchResult(30, 5))
        assert prefetches.length(here, 1, 5) == 10
        assert prefetches.length(there, 1, 5) == 30
        assert prefetches.length(here, 2, 5) == -1

    targets = (
        site.model_server,
        f"localhost:{site.model_server.split(':')[1]}",
    )
    run(site, work, targets=targets)


def test_a_server_that_hangs_is_left_alone(site, monkeypatch) -> None:
    """Users of another one do not wait for it, its own users move."""
    monkeypatch.setattr(service_module, "_POLL_TIMEOUT_S", 0.3)
    with silent_server() as silent:
        both = (site.model_server, silent)
        unknown = next(
            user for user in range(1, 99) if by_user(user, both)[1] == silent
        )
        request = next(
            r for r in site.requests if by_user(r.user_id, both)[0] == silent
        )

        async def work(service: RankingService) -> None:
            (hung,) = [
                t for t in service._parts.targets.all if t.address == silent
            ]
            assert not hung.up
            hung._down_until = 0.0  # It stays down after a while, too.
            assert not hung.up
            moved = await service.rank(
                RankingRequest(request.user_id, request.candidate_item_ids)
            )
            assert moved.path == "cached"
            hung.answered()  # It was not noticed yet.
            answer = await service.rank(RankingRequest(unknown, [3, 4]))
            assert answer.path == "no_history"
            # It takes the next server when the first one hangs.
            hung.answered()
            other = next(
                user
                for user in range(1, 99)
                if by_user(user, both)[0] == silent
            )
            answer = await service.rank(
                RankingRequest(other, [3, 4], deadline_ms=2000)
            )
            assert answer.path == "no_history"
            names = [stage.name for stage in answer.stages]
            assert names.count("rank_no_history") == 2

        run(site, work, targets=both)


def test_an_unexpected_error_has_an_answer(site) -> None:
    """In any stage: others take over."""
    request = site.request()

    async def breaks(*_, **__):
        raise KeyError("surprise")

    async def work(service: RankingService) -> None:
        question = RankingRequest(request.user_id, request.candidate_item_ids)
        (target,) = service._parts.targets.all
        expected = {
            "rank_cached": "full",
            "prefetch": "full",
            "rank": "unranked",
        }
        for call, path in expected.items():
            kept = getattr(target.client, call)
            setattr(target.client, call, breaks)
            if call == "rank":
                target.client.rank_cached = breaks
            answer = await service.rank(question)
            assert answer.path == path, call
            if call != "rank":
                setattr(target.client, call, kept)

    run(site, work)
