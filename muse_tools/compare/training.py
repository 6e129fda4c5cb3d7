"""Trains the cells of a plan in worker processes (joblib's loky)."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent import futures

from joblib.externals import loky

from muse_tools.compare import progress
from muse_tools.compare.plan import Plan, Task
from serving import files
from serving.files import write_json

Train = Callable[[Plan, Task], None]

_POLL_S = 0.5
_IDLE_S = 60
_COLORS = re.compile("\x1b\\[[0-9;]*m")
_LENGTH = 400


def _run_cell(plan: Plan, task: Task) -> None:
    # A worker's environment is set before this imports TensorFlow.
    from muse_tools.compare.cell import run_cell

    run_cell(plan, task)


def train_cells(
    plan: Plan,
    report: Callable[[str], None],
    workers: int,
    train: Train = _run_cell,
) -> None:
    """Trains the cells that are not finished, also those that failed before.

    If another command trains a cell, this waits for it, and trains the cell
    itself if that command dies. With 0 workers, this process trains.

    Raises:
        RuntimeError: if the workers end before they train anything.
    """
    for task in plan.tasks:
        if _is_free(plan, task):
            plan.failure(task).unlink(missing_ok=True)
    left = sum(map(plan.open, plan.tasks))
    total = len(plan.tasks)
    report(f"{total} cells, {total - left} finished before, {left} to train")
    with progress.shown(plan, report) as show:
        while tasks := list(filter(plan.open, plan.tasks)):
            free = [task for task in tasks if _is_free(plan, task)]
            if not free:
                time.sleep(_POLL_S)
            elif workers:
                _train_in_pool(plan, free, workers, train, show)
            else:
                for task in free:
                    _train_one(plan, task, train)
                    show()
            show()


def record_failure(
    plan: Plan, task: Task, reason: str, details: str = ""
) -> None:
    """Records why a cell failed: one line for tables, and details."""
    line = " ".join(_COLORS.sub("", reason).split())
    values = {
        "name": task.name,
        "key": task.key,
        "reason": line if len(line) <= _LENGTH else f"{line[: _LENGTH - 1]}…",
        "details": details,
    }
    write_json(plan.failure(task), values)


def read_failure(plan: Plan, task: Task) -> str:
    """Returns why a cell failed, in one line."""
    values = json.loads(plan.failure(task).read_text(encoding="utf-8"))
    return str(values["reason"])


def _is_free(plan: Plan, task: Task) -> bool:
    with files.locked(plan.lock(task), wait=False) as free:
        return free


def _train_in_pool(
    plan: Plan,
    tasks: Sequence[Task],
    workers: int,
    train: Train,
    show: Callable[[], None],
) -> None:
    """Trains in worker processes; the pool ends if a process dies.

    loky does not tell which cell a dead process was training. Therefore every
    cell that was started is tried again in a pool of its own, and is recorded
    as failed if that pool dies too.
    """
    workers = min(workers, len(tasks))
    log = plan.root / "logs" / f"workers-{os.getpid()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    pool = loky.ProcessPoolExecutor(
        workers,
        timeout=_IDLE_S,
        env=_environment(workers),
        initializer=_write_to,
        initargs=(log,),
    )
    try:
        waiting = {
            pool.submit(_work, plan, task, train, os.getpid()) for task in tasks
        }
        while waiting:
            done, waiting = futures.wait(
                waiting, _POLL_S, futures.FIRST_COMPLETED
            )
            show()
            for one in done:
                one.result()
        return
    except loky.BrokenProcessPool as error:
        died = error
    finally:
        pool.shutdown(kill_workers=True)
    begun = [task for task in tasks if plan.open(task) and plan.leftovers(task)]
    if not begun:
        raise RuntimeError(
            f"the workers ended before their work. Log: {log}"
        ) from died
    if len(tasks) == 1:
        reason = f"the process that trained it ended: {died}"
        record_failure(plan, tasks[0], reason)
        return
    for task in begun:
        _train_in_pool(plan, [task], 1, train, show)


def _environment(workers: int) -> dict[str, str]:
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    defaults = {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_NUM_INTRAOP_THREADS": threads,
        "OMP_NUM_THREADS": threads,
    }
    return {**defaults, **os.environ, "KERAS_BACKEND": "tensorflow"}


def _write_to(log: pathlib.Path) -> None:
    """Redirects a worker's output to a file, to keep the progress bar clean."""
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)


def _work(plan: Plan, task: Task, train: Train, parent: int) -> None:
    """Trains a cell in a worker, unless its command was killed."""
    if os.getppid() == parent:
        _train_one(plan, task, train)


def _train_one(plan: Plan, task: Task, train: Train) -> None:
    """Trains a cell, unless another command is training it or has done so."""
    with files.locked(plan.lock(task), wait=False) as mine:
        if not mine or not plan.open(task):
            return
        for folder in plan.leftovers(task):
            shutil.rmtree(folder, ignore_errors=True)
        try:
            train(plan, task)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            record_failure(plan, task, reason, traceback.format_exc())
