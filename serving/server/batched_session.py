"""Runs of one graph, merged into batches, as TF Serving merges them.

Calls that feed and fetch the same tensors are concatenated along the first
dimension, run once, and cut apart again. Whatever fails, fails for every call
of the batch; a batch is filled up to an allowed size with copies of a real
row, which the graph sees and, if it keeps state, writes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import grpc
import numpy as np

from serving.server.batching import (
    BatchingOptions,
    BatchQueue,
    BatchScheduler,
)
from serving.server.errors import (
    ServingError,
    failed_precondition,
    invalid_argument,
)
from serving.server.metrics import Metrics

__all__ = ["BatchedSession"]

_Run = Callable[
    [Mapping[str, np.ndarray], Sequence[str], "int | None"], list[np.ndarray]
]
_MAX_PADDED_RANK = 6


class _Answer:
    """What one call waits for: the outputs of its parts, or an error."""

    def __init__(self) -> None:
        """Starts with nothing."""
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._missing = 1
        self._error: ServingError | None = None
        self._parts: dict[int, dict[str, np.ndarray]] = {}

    def expect(self, parts: int) -> None:
        """Says how many parts there will be."""
        self._missing = parts

    def give(
        self,
        part: int,
        outputs: dict[str, np.ndarray] | None,
        error: ServingError | None,
    ) -> None:
        """Gives one part, or why there is none."""
        with self._lock:
            if error is not None:
                self._error = self._error or error
            elif outputs is not None:
                self._parts[part] = outputs
            self._missing -= 1
            if self._missing == 0:
                self._done.set()

    def wait(self) -> dict[str, np.ndarray]:
        """Waits for all parts."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        parts = [self._parts[index] for index in sorted(self._parts)]
        if len(parts) == 1:
            return parts[0]
        return {
            name: np.concatenate([part[name] for part in parts])
            for name in parts[0]
        }


class _Task:
    """Rows of one call."""

    def __init__(
        self,
        feeds: Mapping[str, np.ndarray],
        size: int,
        deadline: float | None,
        answer: _Answer,
        part: int = 0,
    ) -> None:
        """Keeps the parts; `deadline` is a time of `time.monotonic`."""
        self.feeds = feeds
        self.size = size
        self.deadline = deadline
        self.answer = answer
        self.part = part
        self.arrived = time.monotonic()


class BatchedSession:
    """Merges the runs of one loaded version.

    Args:
        run: runs the graph: feeds, fetches, limit in ms.
        options: sizes, timeout, padding.
        scheduler: threads, shared with other versions and models.
        metrics: where batches are counted.
    """

    def __init__(
        self,
        run: _Run,
        options: BatchingOptions,
        scheduler: BatchScheduler,
        metrics: Metrics | None = None,
    ) -> None:
        """Keeps the settings; see the class for the arguments."""
        self._run = run
        self._options = options
        self._scheduler = scheduler
        self._metrics = metrics or Metrics()
        self._lock = threading.Lock()
        self._queues: dict[
            tuple[frozenset[str], frozenset[str]], BatchQueue[_Task]
        ] = {}

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        timeout_ms: int | None = None,
    ) -> list[np.ndarray]:
        """Runs a call together with others; waits for the answer.

        Args:
            feeds: tensor name to array; the first dimension of each is the
                same.
            fetches: tensor names.
            timeout_ms: limit. As in TF Serving, a batch runs until the latest
                limit of its calls.

        Returns:
            One array per fetch, the rows of this call.

        Raises:
            ServingError: the call cannot be merged, the queue is full, the
                batch failed, or its time passed in the queue.
        """
        size = _batch_size(feeds)
        deadline = (
            None if timeout_ms is None else time.monotonic() + timeout_ms / 1e3
        )
        answer = _Answer()
        self._queue(feeds, fetches).schedule(
            _Task(feeds, size, deadline, answer)
        )
        outputs = answer.wait()
        return [outputs[name] for name in fetches]

    def close(self) -> None:
        """Gives the queues up; no call may be in flight."""
        with self._lock:
            for queue in self._queues.values():
                queue.close()
            self._queues.clear()

    def _queue(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]
    ) -> BatchQueue[_Task]:
        key = frozenset(feeds), frozenset(fetches)
        with self._lock:
            queue = self._queues.get(key)
            if queue is None:
                names = sorted(key[1])
                queue = self._scheduler.add_queue(
                    self._options, lambda t: self._process(names, t), _split
                )
                self._queues[key] = queue
            return queue

    def _process(self, fetches: Sequence[str], tasks: list[_Task]) -> None:
        parts: list[dict[str, np.ndarray]] | None = None
        failure: ServingError | None = None
        try:
            parts = self._run_batch(fetches, tasks)
        except ServingError as error:
            failure = error
        except Exception as error:  # every caller waits for an answer
            failure = ServingError(
                grpc.StatusCode.INTERNAL, f"Running a batch failed: {error}"
            )
        for index, task in enumerate(tasks):
            outputs = None if parts is None else parts[index]
            task.answer.give(task.part, outputs, failure)

    def _run_batch(
        self, fetches: Sequence[str], tasks: list[_Task]
    ) -> list[dict[str, np.ndarray]]:
        now = time.monotonic()
        pool = self._options.thread_pool_name
        for task in tasks:
            self._metrics.queuing_latency.observe(
                (now - task.arrived) * 1e6, pool
            )
        timeout_ms = _time_left(tasks, now)
        rows = sum(task.size for task in tasks)
        filled = self._options.filled_size(rows) if rows else 0
        self._metrics.batch_size.observe(filled, pool)
        self._metrics.padding_size.observe(filled - rows, pool)
        merged = self._merge(tasks, filled - rows)
        values = self._run(merged, fetches, timeout_ms)
        for value in values:
            if value.ndim == 0:
                raise failed_precondition(
                    "Batched output tensor has 0 dimensions"
                )
            if value.shape[0] != filled:
                raise failed_precondition(
                    "Batched output tensor's 0th dimension does not equal "
                    "the sum of the 0th dimension sizes of the input tensors"
                )
        if len(tasks) == 1 and filled == rows:
            return [dict(zip(fetches, values, strict=True))]
        parts = []
        start = 0
        for task in tasks:
            end = start + task.size
            parts.append(
                {
                    name: value[start:end]
                    for name, value in zip(fetches, values, strict=True)
                }
            )
            start = end
        return parts

    def _merge(
        self, tasks: list[_Task], padding: int
    ) -> Mapping[str, np.ndarray]:
        if len(tasks) == 1 and not padding:
            return tasks[0].feeds
        merged = {}
        for name in tasks[0].feeds:
            arrays = [task.feeds[name] for task in tasks]
            if self._options.pad_variable_length_inputs:
                arrays = _padded(arrays)
            elif any(a.shape[1:] != arrays[0].shape[1:] for a in arrays):
                raise failed_precondition(
                    f"Tensors with name '{name}' from different tasks have "
                    f"different shapes and padding is turned off."
                    f"Set pad_variable_length_inputs to true, or ensure that "
                    f"all tensors with the same namehave equal dimensions "
                    f"starting with the first dim."
                )
            if any(a.dtype != arrays[0].dtype for a in arrays):
                raise ServingError(
                    grpc.StatusCode.INTERNAL,
                    f"Tensor concat operation failed: tensors with name "
                    f"'{name}' from different tasks have different types",
                )
            if padding:
                # Of the last call, as there; one without rows has none.
                source = next(a for a in reversed(arrays) if a.shape[0])
                arrays.append(np.repeat(source[:1], padding, axis=0))
            merged[name] = np.concatenate(arrays)
        return merged


def _batch_size(feeds: Mapping[str, np.ndarray]) -> int:
    sizes = set()
    for array in feeds.values():
        if array.ndim == 0:
            raise invalid_argument(
                "Batching Run() input tensors must have at least one dimension"
            )
        sizes.add(array.shape[0])
    if not sizes:
        raise invalid_argument(
            "Batching Run() must have at least one input tensor"
        )
    if len(sizes) > 1:
        raise invalid_argument(
            "Batching Run() input tensors must have equal 0th-dimension size"
        )
    return sizes.pop()


def _time_left(tasks: list[_Task], now: float) -> int | None:
    """The latest limit of a batch, ms; None for no limit."""
    deadlines = [task.deadline for task in tasks]
    if None in deadlines:
        return None
    latest = max(d for d in deadlines if d is not None)
    if latest <= now:
        raise ServingError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "Run() timeout exceeded while waiting in batching queue",
        )
    return max(1, int((latest - now) * 1000))


def _padded(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Fills inner dimensions up to the longest, with each one's first value."""
    if all(a.shape[1:] == arrays[0].shape[1:] for a in arrays):
        return arrays
    rank = arrays[0].ndim
    if any(a.ndim != rank for a in arrays) or rank > _MAX_PADDED_RANK:
        raise invalid_argument(
            "Only tensors with rank from 1 to 6 can be padded."
            if rank > _MAX_PADDED_RANK
            else "Tensors from different tasks have different ranks"
        )
    inner = tuple(max(a.shape[d] for a in arrays) for d in range(1, rank))
    padded = []
    for array in arrays:
        if array.shape[1:] == inner:
            padded.append(array)
            continue
        shape = (array.shape[0], *inner)
        if array.size == 0 and 0 not in shape:
            raise invalid_argument(
                "Got empty tensor in batch of non-empty tensors."
            )
        whole = np.empty(shape, array.dtype)
        if array.size:
            whole[...] = array.flat[0]
            whole[tuple(slice(size) for size in array.shape)] = array
        padded.append(whole)
    return padded


def _split(task: _Task, sizes: Sequence[int]) -> list[_Task]:
    """Cuts a call into parts of these many rows."""
    task.answer.expect(len(sizes))
    parts = []
    start = 0
    for index, size in enumerate(sizes):
        end = start + size
        feeds = {name: a[start:end] for name, a in task.feeds.items()}
        part = _Task(feeds, size, task.deadline, task.answer, index)
        part.arrived = task.arrived
        parts.append(part)
        start = end
    return parts
