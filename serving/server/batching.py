"""Collects small tasks into batches, as TF Serving's batch scheduler does.

Queues share a few threads. A queue fills its open batch; the batch is due when
it is full, when the next task does not fit, or when its oldest task has waited
for the timeout. Threads that come free take due batches from the queues in
turn. Nothing here knows what a task is.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import grpc

from serving.server.errors import ServingError, invalid_argument

__all__ = ["BatchQueue", "BatchScheduler", "BatchTask", "BatchingOptions"]

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchingOptions:
    """TF Serving's `BatchingParameters`, with its defaults.

    Attributes:
        max_batch_size: rows of a batch, and of one call.
        batch_timeout_micros: how long the first call of a batch waits for
            others, microseconds; 0 waits only while all threads are busy.
        max_enqueued_batches: batches of one queue that wait; more calls are
            refused.
        num_batch_threads: batches that run at once, over all queues.
        thread_pool_name: label in the metrics.
        allowed_batch_sizes: sizes to fill batches up to, ascending.
        pad_variable_length_inputs: fill inner dimensions up to the longest of
            a batch, instead of failing.
        enable_large_batch_splitting: let a call span several batches.
        max_execution_batch_size: rows of a batch that runs, when calls are
            split; 0 for `max_batch_size`.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = dataclasses.field(
        default_factory=lambda: os.cpu_count() or 1
    )
    thread_pool_name: str = "model_server_batch_threads"
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 0

    @property
    def run_size(self) -> int:
        """Most rows of a batch that runs."""
        if self.enable_large_batch_splitting and self.max_execution_batch_size:
            return self.max_execution_batch_size
        return self.max_batch_size

    def filled_size(self, rows: int) -> int:
        """The allowed size that a batch of so many rows is filled up to."""
        for size in self.allowed_batch_sizes:
            if size >= rows:
                return size
        return rows


class BatchTask(Protocol):
    """What a queue must know of a task."""

    size: int


_Task = TypeVar("_Task", bound=BatchTask)


class _Batch(Generic[_Task]):
    """Tasks that run together; `due` is a time of `time.monotonic`."""

    def __init__(self) -> None:
        """Starts empty."""
        self.tasks: list[_Task] = []
        self.size = 0
        self.due = float("inf")


class BatchQueue(Generic[_Task]):
    """Tasks of one kind; made by `BatchScheduler.add_queue`."""

    def __init__(
        self,
        scheduler: BatchScheduler,
        options: BatchingOptions,
        process: Callable[[list[_Task]], None],
        split: Callable[[_Task, Sequence[int]], list[_Task]] | None,
    ) -> None:
        """Keeps the settings; see `BatchScheduler.add_queue`."""
        self.process = process
        self._scheduler = scheduler
        self._options = options
        self._split = split if options.enable_large_batch_splitting else None
        # All but the last are closed.
        self._batches: collections.deque[_Batch[_Task]] = collections.deque(
            [_Batch()]
        )

    def schedule(self, task: _Task) -> None:
        """Puts a task into the open batch, or a new one.

        Args:
            task: the task; `process` gets it soon, together with others.

        Raises:
            ServingError: INVALID_ARGUMENT, it is larger than a batch;
                UNAVAILABLE, too many batches wait.
        """
        if task.size > self._options.max_batch_size:
            raise invalid_argument(
                f"Task size {task.size} is larger than maximum input batch "
                f"size {self._options.max_batch_size}"
            )
        with self._scheduler.changed:
            if self._scheduler.closed:
                raise ServingError(
                    grpc.StatusCode.UNAVAILABLE, "The server is stopping."
                )
            self._check_room(task.size)
            for part in self._parts(task):
                self._add(part)
            self._scheduler.changed.notify()

    def waiting(self) -> int:
        """Tasks that no thread has taken yet."""
        with self._scheduler.changed:
            return sum(len(batch.tasks) for batch in self._batches)

    def close(self) -> None:
        """Takes the queue from its scheduler; it must be empty."""
        self._scheduler.remove(self)

    def due(self) -> float:
        """When a batch can be taken, of `time.monotonic`; inf if none."""
        if len(self._batches) > 1:
            return 0.0
        return self._batches[0].due

    def take(self) -> list[_Task]:
        """Takes the oldest batch out."""
        batch = self._batches.popleft()
        if not self._batches:
            self._batches.append(_Batch())
        return batch.tasks

    def drain(self) -> list[_Task]:
        """Takes everything out."""
        tasks = [task for batch in self._batches for task in batch.tasks]
        self._batches = collections.deque([_Batch()])
        return tasks

    def _check_room(self, size: int) -> None:
        options, waiting = self._options, len(self._batches)
        text = (
            "The batch scheduling queue to which this task was submitted is "
            "full; "
        )
        if self._split is not None:
            run_size, opened = options.run_size, self._batches[-1].size
            room = (options.max_enqueued_batches - waiting) * run_size
            room += run_size - opened
            if size > room:
                raise ServingError(
                    grpc.StatusCode.UNAVAILABLE,
                    f"{text}task size is {size} but scheduling capacity is "
                    f"only {room} (num_enqueued_batches={waiting}, "
                    f"max_enqueued_batches={options.max_enqueued_batches}, "
                    f"open_batch_size={opened}, "
                    f"max_execution_batch_size={run_size})",
                )
        elif (
            self._batches[-1].size + size > options.max_batch_size
            and waiting >= options.max_enqueued_batches
        ):
            raise ServingError(
                grpc.StatusCode.UNAVAILABLE,
                f"{text}currently {waiting} batches enqueued and "
                f"max_enqueued_batches is {options.max_enqueued_batches}",
            )

    def _parts(self, task: _Task) -> list[_Task]:
        run_size = self._options.run_size
        room = run_size - self._batches[-1].size
        if self._split is None or task.size <= room:
            return [task]
        sizes = [room] if room else []
        left = task.size - room
        sizes += [run_size] * (left // run_size)
        if left % run_size:
            sizes.append(left % run_size)
        return self._split(task, sizes)

    def _add(self, task: _Task) -> None:
        batch = self._batches[-1]
        if batch.tasks and batch.size + task.size > self._options.run_size:
            batch = _Batch()
            self._batches.append(batch)
        if not batch.tasks:
            wait = self._options.batch_timeout_micros / 1e6
            batch.due = time.monotonic() + wait
        batch.tasks.append(task)
        batch.size += task.size
        if batch.size >= self._options.run_size:
            batch.due = 0.0


class BatchScheduler:
    """Threads that run the batches of all queues.

    Args:
        threads: batches that run at once.
        name: prefix of the threads' names.

    Attributes:
        changed: guards all queues, and tells of new tasks.
        closed: whether it has been closed.
    """

    def __init__(self, threads: int, name: str = "batch") -> None:
        """Keeps the settings; see the class for the arguments."""
        self.changed = threading.Condition()
        self.closed = False
        self._queues: list[BatchQueue] = []
        self._next = 0
        self._threads = [
            threading.Thread(
                target=self._work, name=f"{name}-{index}", daemon=True
            )
            for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def add_queue(
        self,
        options: BatchingOptions,
        process: Callable[[list[_Task]], None],
        split: Callable[[_Task, Sequence[int]], list[_Task]] | None = None,
    ) -> BatchQueue[_Task]:
        """Makes a queue.

        Args:
            options: its sizes and timeout.
            process: runs the tasks of one batch, in a thread of the
                scheduler; must not raise.
            split: cuts a task into parts of these sizes.
        """
        queue = BatchQueue(self, options, process, split)
        with self.changed:
            self._queues.append(queue)
        return queue

    def remove(self, queue: BatchQueue) -> None:
        """Forgets a queue."""
        with self.changed:
            if queue in self._queues:
                self._queues.remove(queue)

    def waiting(self) -> int:
        """Tasks of all queues that no thread has taken yet."""
        with self.changed:
            queues = list(self._queues)
        return sum(queue.waiting() for queue in queues)

    def close(self) -> None:
        """Ends the threads, once what waits has run."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self.changed:
                taken = self._wait_for_batch()
            if taken is None:
                return
            queue, tasks = taken
            try:
                queue.process(tasks)
            except Exception:
                _logger.exception("Running a batch failed")
            del queue, tasks, taken  # an idle thread keeps nothing alive

    def _wait_for_batch(self) -> tuple[BatchQueue, list] | None:
        while True:
            now = time.monotonic()
            first = float("inf")
            count = len(self._queues)
            for step in range(count):
                place = (self._next + step) % count
                queue = self._queues[place]
                due = queue.due()
                if due <= now or (self.closed and due < float("inf")):
                    self._next = (place + 1) % count
                    tasks = queue.take()
                    # This thread may have been the one that minded the
                    # clock for another queue.
                    self.changed.notify()
                    return queue, tasks
                first = min(first, due)
            if self.closed:
                return None
            self.changed.wait(None if first == float("inf") else first - now)
