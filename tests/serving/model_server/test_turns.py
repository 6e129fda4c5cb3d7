"""Only so many graphs run at once; others wait, but not past their time."""

from __future__ import annotations

import asyncio
import threading
import time

import grpc
import pytest

from serving.model_server.config import ServerConfig
from serving.model_server.dispatch import Dispatcher
from serving.model_server.errors import ServingError
from serving.model_server.metrics import Metrics

pytestmark = pytest.mark.tf


def test_no_more_run_than_allowed():
    from serving.model_server.servable import SessionOptions

    options = SessionOptions(runs=2)
    running, most = 0, 0
    lock = threading.Lock()

    def call() -> None:
        nonlocal running, most
        with options.turn(None):
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.01)
            with lock:
                running -= 1

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2 and running == 0


def test_waiting_uses_up_the_time():
    from serving.model_server.servable import SessionOptions

    options = SessionOptions(runs=1)
    with options.turn(1000) as left:
        assert left is not None and left <= 1000
        with pytest.raises(ServingError) as caught:
            with options.turn(20):
                raise AssertionError("two at once")
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    with options.turn(None) as left:
        assert left is None


def test_a_failed_run_gives_its_turn_back():
    from serving.model_server.servable import SessionOptions

    options = SessionOptions(runs=1)
    for _ in range(3):
        with pytest.raises(KeyError), options.turn(50):
            raise KeyError("failed")


def test_without_a_limit_the_time_is_untouched():
    from serving.model_server.servable import SessionOptions

    options = SessionOptions()
    with options.turn(5) as outer, options.turn(7) as inner:
        assert (outer, inner) == (5, 7)


def test_the_limit_is_checked():
    with pytest.raises(ValueError, match="`max_concurrent_runs`"):
        ServerConfig(max_concurrent_runs=-1)


def test_calls_are_counted_until_their_thread_ends():
    release = threading.Event()

    async def scenario() -> list[str]:
        dispatcher = Dispatcher("GRPC", 1, Metrics(), max_admitted=2)
        seen = []

        def run(work):
            return dispatcher.run("Predict", "m", work, None)

        running = asyncio.ensure_future(run(lambda _: release.wait(10)))
        queued = asyncio.ensure_future(run(lambda _: seen.append("ran")))
        await asyncio.sleep(0.05)
        with pytest.raises(ServingError, match="Threadpool Exhausted"):
            await run(lambda _: None)
        queued.cancel()  # it never ran: its place is free at once
        with pytest.raises(asyncio.CancelledError):
            await queued
        running.cancel()  # its thread still runs: its place is not
        with pytest.raises(asyncio.CancelledError):
            await running
        other = asyncio.ensure_future(run(lambda _: seen.append("other")))
        await asyncio.sleep(0.05)
        with pytest.raises(ServingError, match="Threadpool Exhausted"):
            await run(lambda _: None)
        release.set()
        await other
        seen.append(await run(lambda left: f"last {left}"))
        with pytest.raises(ZeroDivisionError):
            await run(lambda _: 1 / 0)
        dispatcher.close()
        return seen

    assert asyncio.run(scenario()) == ["other", "last None"]
