"""Model servers come and go; as many users as possible stay with theirs."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import socket
import threading
import time
import urllib.request

import numpy as np
import pytest

from serving.client.declaration import Declaration
from serving.client.ranking import RankingClient, RankingRequest
from serving.ranking_service import ServiceConfig, running_service
from serving.ranking_service import service as service_module
from serving.ranking_service.metrics import ServiceMetrics
from serving.ranking_service.targets import Targets, by_user
from tests.serving import toy_muse
from tests.serving.front import front_of
from tests.serving.ranking_service.conftest import fill, settings
from tests.serving.stores.conftest import wait_until

pytestmark = pytest.mark.once

NAME = "model-server.test"


class Names:
    """What DNS answers for the name, which the tests change."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: list[str] = []
        real = socket.getaddrinfo

        def look_up(host, port, *args, **options):
            if host != NAME:
                return real(host, port, *args, **options)
            if not self.addresses:
                raise socket.gaierror(socket.EAI_NONAME, "not known")
            return [
                answer
                for address in self.addresses
                for answer in real(*address.split(":"), *args, **options)
            ]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        monkeypatch.setattr(service_module, "_NAMES_S", 0.05)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


@pytest.fixture
def fronts(site):
    """Three model servers: each counts its own calls."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(front_of(site.model_server)) for _ in range(3)
        ]


def owners(addresses) -> dict[int, str]:
    return {user: by_user(user, addresses)[0] for user in range(20_000)}


def test_only_one_share_of_the_users_moves() -> None:
    four = [f"10.0.0.{number}:8500" for number in range(4)]
    before = owners(four)
    counts = collections.Counter(before.values())
    assert max(counts.values()) < 1.05 * 20_000 / 4
    for after in (owners(four[:3]), owners([*four, "10.0.0.4:8500"])):
        moved = {user for user in before if before[user] != after[user]}
        share = 1 / len(set(before.values()) | set(after.values()))
        assert len(moved) == pytest.approx(20_000 * share, rel=0.05)
        # From the server that is gone, or to the one that is new.
        gone = set(before.values()) - set(after.values())
        new = set(after.values()) - set(before.values())
        assert all(before[user] in gone or after[user] in new for user in moved)


def test_a_full_server_is_passed_over() -> None:
    config = ServiceConfig(targets=("a:1", "b:1"), calls_per_target=2)
    metrics = ServiceMetrics(with_store=False)

    async def check() -> None:
        targets = Targets(config, Declaration(None), metrics.moved)
        for target in targets.all:
            target.answered()
        own, other = targets.order(7)
        until = time.monotonic() + 60
        async with own.place(until, prefetch=True):
            # Half of the places are for prefetches.
            assert targets.order(7) == [own, other]
            assert targets.order(7, prefetch=True) == [other, own]
            async with own.place(until):
                assert targets.order(7) == [other, own]
                other.lost()
                assert targets.order(7) == [own, other]
                other.answered()
        assert targets.order(7, prefetch=True) == [own, other]
        await targets.close()

    asyncio.run(check())
    assert "muse_ranking_moved_prefetches_total 1.0" in metrics.page()


def wait_for(app, addresses) -> None:
    """Until exactly these servers are up, by the metrics."""
    until = time.monotonic() + 60
    while True:
        with urllib.request.urlopen(app.rest_url + "/metrics") as answer:
            page = answer.read().decode()
        lines = [x for x in page.split("\n") if "_target_up{" in x]
        wanted = {
            f'muse_ranking_target_up{{target="{a}"}} 1.0' for a in addresses
        }
        if set(lines) == wanted:
            return
        assert time.monotonic() < until, lines
        time.sleep(0.02)


def test_servers_come_and_go_under_load(site, names, fronts, tmp_path) -> None:
    """No wrong answer, none without scores, and the users of the others stay.

    A server that leaves is first taken out of DNS, then it fails.
    """
    addresses = [address for _, address in fronts]
    # Users of its own: other tests leave theirs in the model server's cache.
    by_id = {
        7000 + r.user_id: dataclasses.replace(r, user_id=7000 + r.user_id)
        for r in site.requests
        if len(r.behavior_item_ids)
    }
    store = f"lmdb:{tmp_path / 'store'}"
    fill(store, list(by_id.values()))
    answers: list[tuple[int, str]] = []
    wrong: list[str] = []
    stop = threading.Event()

    def ask(app) -> None:
        with RankingClient(app.grpc_target) as client:
            while not stop.is_set():
                for user_id, request in by_id.items():
                    answer = client.rank(
                        RankingRequest(
                            user_id,
                            request.candidate_item_ids,
                            deadline_ms=50_000,
                        )
                    )
                    answers.append((user_id, answer.path))
                    if not np.allclose(
                        answer.click_probability,
                        toy_muse.expected_score(request),
                        atol=1e-5,
                    ):
                        wrong.append(answer.path)

    names.addresses = addresses[:2]
    config = settings(
        site,
        store=store,
        targets=(f"dns:{NAME}:8500",),
        poll_seconds=0.1,
        max_deadline_ms=50_000,
        store_timeout_ms=20_000,
        prefetch_timeout_ms=20_000,
        stage_budget_ms=dict.fromkeys(
            ("prefetch", "rank_cached", "rank_full"), 20_000
        ),
    )
    with running_service(ServiceConfig(**config)) as app:
        wait_for(app, addresses[:2])
        callers = [threading.Thread(target=ask, args=(app,)) for _ in range(2)]
        for caller in callers:
            caller.start()
        asked = collections.Counter()

        def serving(now: list[str]) -> None:
            names.addresses = now
            wait_for(app, now)
            before = len(answers)
            while len(answers) < before + 4 * len(by_id):
                assert any(caller.is_alive() for caller in callers)
                time.sleep(0.01)
            asked[len(now)] += 1
            order = app.service._parts.targets.order
            # A busy machine may keep a server from answering for a moment.
            wait_until(
                lambda: all(
                    order(user_id)[0].address == by_user(user_id, now)[0]
                    for user_id in by_id
                )
            )

        serving(addresses)
        serving(addresses[1:])
        # What is gone fails; nobody asks it.
        fronts[0][0].faults["muse", "rank"] = b"\xff"
        fronts[0][0].faults["muse", "rank_cached"] = b"\xff"
        serving(addresses[1:])
        # DNS does not answer: the servers stay.
        names.addresses = []
        time.sleep(0.3)
        wait_for(app, addresses[1:])
        stop.set()
        for caller in callers:
            caller.join()
    assert not wrong
    assert not fronts[0][0].met
    assert asked == {3: 1, 2: 2}
    paths = collections.Counter(path for _, path in answers)
    assert set(paths) <= {"cached", "full"}, paths
    assert paths["cached"] > 0.9 * len(answers), paths
