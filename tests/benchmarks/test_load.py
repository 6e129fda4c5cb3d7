"""The parts of the load generator: arrivals, popularity, loops, numbers."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from concurrent import futures

import grpc
import numpy as np
import pytest

from benchmarks.load import summary, workload
from benchmarks.load.arrivals import poisson
from benchmarks.load.loops import Samples, closed_loop, open_loop
from benchmarks.load.zipf import Zipf
from serving.client.errors import call_error

METHOD = "/test.Waiting/Wait"


def test_arrivals_are_poisson():
    arrivals = poisson(1_000, 20, np.random.default_rng(0))
    gaps = np.diff(arrivals)
    assert (gaps >= 0).all() and arrivals[0] >= 0 and arrivals[-1] < 20
    assert len(arrivals) == pytest.approx(20_000, rel=0.03)
    # Gaps of a Poisson process deviate as much as they last.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    # Arrivals of a second vary as much as there are.
    counts = np.bincount((arrivals * 10).astype(int))
    assert counts.var() == pytest.approx(counts.mean(), rel=0.3)


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (1, 0), (-1, 1)])
def test_arrivals_need_a_rate_and_a_time(rate, seconds):
    with pytest.raises(ValueError, match="above 0"):
        poisson(rate, seconds, np.random.default_rng(0))


def test_the_nth_id_is_drawn_one_nth_as_often():
    ids = np.array([70, -3, 9, 4])
    drawn = Zipf(ids, 1.0).draw(40_000, np.random.default_rng(0))
    counts = np.array([(drawn == item).sum() for item in ids])
    expected = 40_000 / np.arange(1, 5) / np.sum(1 / np.arange(1, 5))
    np.testing.assert_allclose(counts, expected, rtol=0.05)


def test_distinct_ids_are_distinct_and_popular_ones_come_first():
    zipf = Zipf(np.arange(1, 101), 1.0)
    generator = np.random.default_rng(0)
    lists = [zipf.distinct(30, generator) for _ in range(200)]
    assert all(len(np.unique(drawn)) == 30 for drawn in lists)
    first = np.bincount([drawn[0] for drawn in lists], minlength=101)
    assert first[1] > first[50:].sum()
    assert sorted(zipf.distinct(100, generator)) == list(range(1, 101))
    with pytest.raises(ValueError, match="at most 100"):
        zipf.distinct(101, generator)


def test_a_workload_is_the_same_in_every_process():
    given = dict(num_items=500, users=[(10, 3), (20, 2)], candidates=7)
    one, other = workload.Workload(**given), workload.Workload(**given)
    lengths = sorted(len(user.item_ids) for user in one.users)
    assert lengths == [10, 10, 10, 20, 20]
    for _ in range(20):
        (user, candidates), (same, equal) = one.next(), other.next()
        assert user.user_id == same.user_id
        np.testing.assert_array_equal(user.item_ids, same.item_ids)
        np.testing.assert_array_equal(candidates, equal)
        assert len(np.unique(candidates)) == 7
    later = [one.next()[0].user_id for _ in range(20)]
    one.restart()
    other.restart()
    first = [one.next()[0].user_id for _ in range(20)]
    assert first != later
    assert first == [other.next()[0].user_id for _ in range(20)]


def test_percentiles():
    seconds = np.arange(1, 1_002) / 1e3
    assert summary.percentiles(seconds) == {
        "p50_ms": 501.0,
        "p95_ms": 951.0,
        "p99_ms": 991.0,
    }
    assert set(summary.percentiles([]).values()) == {None}


def test_numbers_of_a_run():
    samples = Samples(
        latencies=[0.1] * 8,
        outcomes={"hit": 3, "cached": 3, "full": 2},
        refused=2,
        failed={"CallError": 1},
        seconds=4.0,
    )
    found = summary.summary(samples)
    assert found["hit_rate"] == 0.75
    assert found["per_second"] == 2.0
    assert (found["calls"], found["refused"], found["failed"]) == (8, 2, 1)
    head, row = summary.table([{"case": "x", "loop": "2 workers", **found}])
    assert dict(zip(head, row, strict=True))["hits"] == "0.75"
    assert "service" not in head


def test_busy_cores_are_measured():
    before = {"me": summary.cpu_seconds(os.getpid())}
    begin = time.process_time()
    while time.process_time() - begin < 0.2:
        pass
    after = {"me": summary.cpu_seconds(os.getpid())}
    used = summary.cores_used(before, after, 2.0)["me_cores"]
    assert used >= 0.08


class WaitingServer:
    """A gRPC server that answers when it is told to."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.asked = threading.Semaphore(0)
        self.most = 0
        self._inside = 0
        self._lock = threading.Lock()
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    "test.Waiting",
                    {"Wait": grpc.unary_unary_rpc_method_handler(self._wait)},
                ),
            )
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def stop(self) -> None:
        self.open.set()
        self._server.stop(None).wait()

    def _wait(self, request: bytes, _: object) -> bytes:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
        self.asked.release()
        self.open.wait(10)
        with self._lock:
            self._inside -= 1
        return request


@pytest.fixture
def waiting() -> Iterator[WaitingServer]:
    server = WaitingServer()
    yield server
    server.stop()


def asking(server: WaitingServer, run):
    """Runs a loop whose calls ask the server."""

    async def main() -> Samples:
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{server.port}"
        ) as channel:
            await channel.channel_ready()
            method = channel.unary_unary(METHOD)

            async def call() -> str:
                return (await method(b"hit")).decode()

            return await run(call)

    return asyncio.run(main())


def test_a_closed_loop_asks_with_as_many_as_it_has_workers(waiting):
    samples = asking(waiting, lambda call: closed_loop(call, 3, 0.3))
    assert waiting.most <= 3
    assert len(samples.latencies) >= 3
    assert samples.outcomes == {"hit": len(samples.latencies)}
    assert samples.hit_rate == 1.0
    assert samples.seconds >= 0.3
    assert not samples.late


def test_an_open_loop_counts_the_time_that_a_standing_server_takes(waiting):
    """Calls that arrive during a stall wait, each from its own arrival."""
    waiting.open.clear()
    arrivals = np.array([0.0, 0.1, 0.2, 0.3, 0.4])

    def let_go() -> None:
        for _ in arrivals:
            waiting.asked.acquire(timeout=10)
        waiting.open.set()

    thread = threading.Thread(target=let_go)
    thread.start()
    samples = asking(waiting, lambda call: open_loop(call, arrivals))
    thread.join()
    # All were sent although none was answered, and all waited for the last.
    assert waiting.most == len(arrivals)
    longest_first = np.sort(samples.latencies)[::-1]
    assert (longest_first >= arrivals[-1] - arrivals).all()
    assert len(samples.late) == len(arrivals)


def test_refusals_and_failures_are_counted_apart():
    codes = iter(["RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "", "NOT_FOUND"])

    async def call() -> str | None:
        code = next(codes)
        if code:
            raise call_error(code, "no")
        return None

    samples = asyncio.run(open_loop(call, np.zeros(4)))
    assert samples.refused == 1
    assert samples.failed == {"DeadlineError": 1, "NotFoundError": 1}
    assert len(samples.latencies) == 1
    assert samples.hit_rate is None


def test_an_open_loop_says_how_late_it_sent():
    """A call that blocks the loop delays the others; their latency has it."""

    async def call() -> None:
        time.sleep(0.1)

    samples = asyncio.run(open_loop(call, np.zeros(3)))
    assert max(samples.latencies) >= 0.3
    assert max(samples.late) >= 0.2
