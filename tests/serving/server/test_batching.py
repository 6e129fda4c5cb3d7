"""Calls are merged by the rules of TF Serving's batching parameters."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import grpc
import numpy as np
import pytest

from serving.server.batched_session import BatchedSession
from serving.server.batching import BatchingOptions, BatchScheduler
from serving.server.errors import ServingError
from serving.server.metrics import Metrics

pytestmark = pytest.mark.tf

LONG = 60_000_000  # microseconds; a batch that runs was full


class Graph:
    """Doubles `x:0`, records what it was given, and may be held up."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []
        self.limits: list[int | None] = []
        self.entered = 0
        self.gate = threading.Event()
        self.gate.set()

    def __call__(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        timeout_ms: int | None,
    ) -> list[np.ndarray]:
        self.entered += 1
        self.gate.wait(30)
        self.seen.append(feeds["x:0"])
        self.limits.append(timeout_ms)
        return [{"y:0": feeds["x:0"] * 2}[name] for name in fetches]


class Batches:
    """A graph behind batching, and callers of it in threads."""

    def __init__(self, threads: int = 1, **options) -> None:
        self.graph = Graph()
        self.metrics = Metrics()
        self.scheduler = BatchScheduler(threads)
        self.session = BatchedSession(
            self.graph, BatchingOptions(**options), self.scheduler, self.metrics
        )
        self._callers: list[threading.Thread] = []

    def run(self, *rows, timeout_ms: int | None = None):
        return self.session.run({"x:0": np.array(rows)}, ["y:0"], timeout_ms)[0]

    def start(self, *rows, timeout_ms: int | None = None) -> dict:
        """Calls from a thread; returns once the queue has the call."""
        found: dict = {}
        waiting, entered = self.scheduler.waiting(), self.graph.entered

        def call() -> None:
            try:
                found["y"] = self.run(*rows, timeout_ms=timeout_ms)
            except ServingError as error:
                found["error"] = (error.code, error.message)

        thread = threading.Thread(target=call)
        thread.start()
        self._callers.append(thread)
        wait_for(
            lambda: (
                self.scheduler.waiting() > waiting
                or self.graph.entered > entered
                or not thread.is_alive()
            )
        )
        return found

    def join(self) -> None:
        for thread in self._callers:
            thread.join(30)
            assert not thread.is_alive()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.001)


@pytest.fixture
def batches():
    made: list[Batches] = []

    def make(threads: int = 1, **options) -> Batches:
        made.append(Batches(threads, **options))
        return made[-1]

    yield make
    for one in made:
        one.graph.gate.set()
        one.scheduler.close()
        one.join()


def occupy(served: Batches) -> dict:
    """Lets the only thread run a batch that does not end."""
    served.graph.gate.clear()
    first = served.start(0)
    wait_for(lambda: served.scheduler.waiting() == 0)
    return first


def test_a_full_batch_runs_at_once(batches):
    served = batches(max_batch_size=3, batch_timeout_micros=LONG)
    first = served.start(1)
    assert served.run(2, 3).tolist() == [4, 6]
    served.join()
    assert first["y"].tolist() == [2]
    (seen,) = served.graph.seen
    assert seen.tolist() == [1, 2, 3]


def test_a_batch_that_is_not_full_waits_for_the_timeout(batches):
    served = batches(max_batch_size=8, batch_timeout_micros=50_000)
    started = time.monotonic()
    assert served.run(1).tolist() == [2]
    assert time.monotonic() - started >= 0.05


def test_without_a_timeout_calls_gather_while_threads_are_busy(batches):
    served = batches(max_batch_size=8)
    occupy(served)
    later = [served.start(value) for value in (1, 2, 3)]
    served.graph.gate.set()
    served.join()
    assert [found["y"].tolist() for found in later] == [[2], [4], [6]]
    assert [seen.tolist() for seen in served.graph.seen] == [[0], [1, 2, 3]]


def test_a_call_that_does_not_fit_opens_the_next_batch(batches):
    served = batches(max_batch_size=3, batch_timeout_micros=LONG)
    first = served.start(1, 2)
    second = served.start(3, 4)  # closes the first
    wait_for(lambda: len(served.graph.seen) == 1)
    assert served.run(5).tolist() == [10]
    served.join()
    assert first["y"].tolist() == [2, 4] and second["y"].tolist() == [6, 8]
    assert [seen.tolist() for seen in served.graph.seen] == [
        [1, 2],
        [3, 4, 5],
    ]


def test_a_call_larger_than_a_batch(batches):
    with pytest.raises(ServingError) as caught:
        batches(max_batch_size=2).run(1, 2, 3)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.message == (
        "Task size 3 is larger than maximum input batch size 2"
    )


def test_a_full_queue_refuses(batches):
    served = batches(max_batch_size=2, max_enqueued_batches=2)
    occupy(served)
    waiting = [served.start(value) for value in (1, 2, 3, 4)]
    refused = served.start(5)
    assert refused["error"] == (
        grpc.StatusCode.UNAVAILABLE,
        "The batch scheduling queue to which this task was submitted is "
        "full; currently 2 batches enqueued and max_enqueued_batches is 2",
    )
    served.graph.gate.set()
    served.join()
    assert [found["y"].tolist() for found in waiting] == [[2], [4], [6], [8]]
    assert served.run(6).tolist() == [12]


def test_a_busy_queue_does_not_hold_up_another(batches):
    served = batches(threads=2, max_batch_size=4)
    occupy(served)
    quick = BatchedSession(
        Graph(), BatchingOptions(max_batch_size=4), served.scheduler
    )
    assert quick.run({"x:0": np.array([4])}, ["y:0"])[0].tolist() == [8]
    quick.close()


def test_queues_take_turns(batches):
    served = batches(max_batch_size=1)
    order: list[str] = []

    def session(name: str) -> BatchedSession:
        def run(feeds, fetches, timeout_ms):
            order.append(name)
            return [feeds["x:0"]]

        return BatchedSession(
            run, BatchingOptions(max_batch_size=1), served.scheduler
        )

    occupy(served)
    threads = []
    for one in (session("a"), session("b")):
        for _ in range(3):
            thread = threading.Thread(
                target=one.run, args=({"x:0": np.array([1])}, ["y:0"])
            )
            before = served.scheduler.waiting()
            thread.start()
            threads.append(thread)
            wait_for(lambda b=before: served.scheduler.waiting() > b)
    served.graph.gate.set()
    for thread in threads:
        thread.join(30)
    assert order == ["a", "b"] * 3


def test_allowed_sizes_are_filled_with_the_last_calls_first_row(batches):
    served = batches(
        max_batch_size=4,
        allowed_batch_sizes=(2, 4),
        batch_timeout_micros=1000,
    )
    assert served.run(7).tolist() == [14]
    assert served.run(1, 2, 3).tolist() == [2, 4, 6]
    assert [seen.tolist() for seen in served.graph.seen] == [
        [7, 7],
        [1, 2, 3, 1],
    ]
    page = served.metrics.page()
    assert 'muse_server_batch_padding_sum{thread_pool_name="' in page
    assert "muse_server_batch_size_count" in page


def test_the_padding_comes_from_the_last_call_of_a_batch(batches):
    served = batches(max_batch_size=4, allowed_batch_sizes=(4,))
    occupy(served)
    for value in (1, 2):
        served.start(value)
    served.start(3)
    served.graph.gate.set()
    served.join()
    assert served.graph.seen[-1].tolist() == [1, 2, 3, 3]


def test_calls_without_rows(batches):
    served = batches(max_batch_size=4, allowed_batch_sizes=(4,))
    empty = served.session.run({"x:0": np.zeros((0,))}, ["y:0"])[0]
    assert empty.shape == (0,)
    occupy(served)
    one, none = served.start(5), {}
    thread = threading.Thread(
        target=lambda: none.update(
            y=served.session.run({"x:0": np.zeros(0, np.int64)}, ["y:0"])[0]
        )
    )
    thread.start()
    wait_for(lambda: served.scheduler.waiting() == 2)
    served.graph.gate.set()
    thread.join(30)
    served.join()
    assert one["y"].tolist() == [10] and none["y"].shape == (0,)
    assert served.graph.seen[-1].tolist() == [5, 5, 5, 5]


def test_different_inner_sizes_fail_for_all(batches):
    served = batches(max_batch_size=2, batch_timeout_micros=LONG)
    first = served.start([1, 2])
    second = served.start([1, 2, 3])
    served.join()
    assert first == second
    code, text = first["error"]
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "different shapes and padding is turned off" in text
    assert not served.graph.seen


def test_variable_lengths_are_filled_with_each_calls_first_value(batches):
    served = batches(
        max_batch_size=2,
        batch_timeout_micros=LONG,
        pad_variable_length_inputs=True,
    )
    first = served.start([8, 2])
    second = served.start([1, 2, 3])
    served.join()
    assert served.graph.seen[0].tolist() == [[8, 2, 8], [1, 2, 3]]
    # Outputs are cut by rows only, as there.
    assert first["y"].tolist() == [[16, 4, 16]]
    assert second["y"].tolist() == [[2, 4, 6]]


def test_an_empty_inner_dimension_cannot_be_filled(batches):
    served = batches(
        max_batch_size=2,
        batch_timeout_micros=LONG,
        pad_variable_length_inputs=True,
    )
    served.start([1, 2])
    found = served.start([])
    served.join()
    assert found["error"] == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Got empty tensor in batch of non-empty tensors.",
    )


def test_different_types_fail_for_all(batches):
    served = batches(max_batch_size=2, batch_timeout_micros=LONG)
    first = served.start(1)
    second = served.start(1.5)
    served.join()
    assert first["error"] == second["error"]
    assert first["error"][0] is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize(
    ("feeds", "text"),
    [
        (
            {"x:0": np.array(1)},
            "Batching Run() input tensors must have at least one dimension",
        ),
        (
            {"x:0": np.zeros(2), "z:0": np.zeros(3)},
            "Batching Run() input tensors must have equal 0th-dimension size",
        ),
    ],
)
def test_inputs_need_one_first_dimension(batches, feeds, text):
    with pytest.raises(ServingError) as caught:
        batches().session.run(feeds, ["y:0"])
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.message == text


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (np.array(1), "Batched output tensor has 0 dimensions"),
        (
            np.zeros(5),
            "Batched output tensor's 0th dimension does not equal the sum of "
            "the 0th dimension sizes of the input tensors",
        ),
    ],
)
def test_outputs_need_the_batch_dimension(batches, output, text):
    served = batches()
    session = BatchedSession(
        lambda *_: [output], BatchingOptions(), served.scheduler
    )
    with pytest.raises(ServingError) as caught:
        session.run({"x:0": np.zeros(2)}, ["y:0"])
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.message == text


def test_a_failing_run_fails_for_all_and_the_threads_live_on(batches):
    served = batches(max_batch_size=2, batch_timeout_micros=LONG)
    calls = []

    def fail(*_):
        calls.append(1)
        raise ZeroDivisionError("by accident")

    served.session = BatchedSession(
        fail,
        BatchingOptions(max_batch_size=2, batch_timeout_micros=LONG),
        served.scheduler,
    )
    first, second = served.start(1), served.start(2)
    served.join()
    assert first == second and "by accident" in first["error"][1]
    assert len(calls) == 1
    good = BatchedSession(
        Graph(), BatchingOptions(max_batch_size=2), served.scheduler
    )
    assert good.run({"x:0": np.array([1])}, ["y:0"])[0].tolist() == [2]


def test_a_batch_runs_until_the_latest_limit_of_its_calls(batches):
    served = batches(max_batch_size=2, batch_timeout_micros=LONG)
    served.start(1, timeout_ms=5_000)
    served.start(2, timeout_ms=90_000)
    served.join()
    (limit,) = served.graph.limits
    assert limit is not None and 60_000 < limit <= 90_000
    served.start(1, timeout_ms=5_000)
    served.start(2)
    served.join()
    assert served.graph.limits[1] is None


def test_calls_whose_time_passed_in_the_queue_do_not_run(batches):
    served = batches(max_batch_size=2)
    occupy(served)
    late = served.start(1, timeout_ms=1)
    time.sleep(0.02)
    served.graph.gate.set()
    served.join()
    assert late["error"] == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "Run() timeout exceeded while waiting in batching queue",
    )
    assert len(served.graph.seen) == 1


def test_large_calls_are_split_over_batches(batches):
    served = batches(
        max_batch_size=100,
        enable_large_batch_splitting=True,
        max_execution_batch_size=4,
        max_enqueued_batches=4,
        batch_timeout_micros=LONG,
    )
    first = served.start(1)
    assert served.run(*range(2, 13)).tolist() == list(range(4, 25, 2))
    served.join()
    assert first["y"].tolist() == [2]
    assert [seen.tolist() for seen in served.graph.seen] == [
        [1, 2, 3, 4],
        [5, 6, 7, 8],
        [9, 10, 11, 12],
    ]
    with pytest.raises(ServingError, match="scheduling capacity is only 16"):
        served.run(*range(17))


def test_a_large_call_fails_as_a_whole(batches):
    served = batches()
    runs = []

    def second_fails(feeds, fetches, timeout_ms):
        runs.append(1)
        if len(runs) == 2:
            raise ServingError(grpc.StatusCode.INTERNAL, "second")
        return [feeds["x:0"]]

    session = BatchedSession(
        second_fails,
        BatchingOptions(
            enable_large_batch_splitting=True, max_execution_batch_size=2
        ),
        served.scheduler,
    )
    with pytest.raises(ServingError, match="second"):
        session.run({"x:0": np.arange(6)}, ["y:0"])
    assert len(runs) == 3


@pytest.mark.parametrize("splitting", [False, True])
def test_many_callers_get_their_own_rows(batches, splitting):
    served = batches(
        threads=3,
        max_batch_size=16,
        allowed_batch_sizes=(4, 8) if splitting else (4, 16),
        max_enqueued_batches=1000,
        batch_timeout_micros=200,
        enable_large_batch_splitting=splitting,
        max_execution_batch_size=8 if splitting else 0,
    )
    wrong = []

    def call(seed: int) -> None:
        generator = np.random.default_rng(seed)
        for _ in range(100):
            rows = generator.integers(0, 2**40, generator.integers(0, 17))
            if not np.array_equal(served.run(*rows), rows * 2):
                wrong.append(rows)

    threads = [threading.Thread(target=call, args=(s,)) for s in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert len(served.graph.seen) < 800  # some were merged


def test_closing_runs_what_waits_and_refuses_the_rest(batches):
    served = batches(max_batch_size=8, batch_timeout_micros=LONG)
    waiting = served.start(1)
    served.scheduler.close()
    served.join()
    assert waiting["y"].tolist() == [2]
    with pytest.raises(ServingError) as caught:
        served.run(2)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_fetches_in_any_order_share_a_queue_and_keep_their_order(batches):
    served = batches(max_batch_size=2, batch_timeout_micros=LONG)

    def run(feeds, fetches, timeout_ms):
        return [feeds["x:0"] + {"a:0": 1, "b:0": 2}[name] for name in fetches]

    session = BatchedSession(
        run,
        BatchingOptions(max_batch_size=2, batch_timeout_micros=LONG),
        served.scheduler,
    )
    found: list = []
    thread = threading.Thread(
        target=lambda: found.extend(
            session.run({"x:0": np.array([10])}, ["b:0", "a:0", "b:0"])
        )
    )
    thread.start()
    other = session.run({"x:0": np.array([20])}, ["a:0", "b:0"])
    thread.join(30)
    assert [a.tolist() for a in other] == [[21], [22]]
    assert [a.tolist() for a in found] == [[12], [11], [12]]
