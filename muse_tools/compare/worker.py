"""A process that trains the cells of a plan that nobody else trains.

``python -m muse_tools.compare.worker PLAN``; any number of them share a
plan, from one command or from several.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import sys
import time
import traceback
from collections.abc import Callable

from muse_tools.compare import locks
from muse_tools.compare.plan import Plan, Task
from serving.files import write_text

__all__ = ["CELLS_OF_A_PROCESS", "read_failure", "record_failure", "work"]

# A process that trains many models grows; a new one takes seconds to start.
CELLS_OF_A_PROCESS = 12
_POLL_S = 0.5
_COLORS = re.compile("\x1b\\[[0-9;]*m")
_LENGTH = 300


def work(
    plan: Plan,
    run: Callable[[Plan, Task], None],
    wanted: Callable[[], bool] = lambda: True,
    most: int | None = None,
) -> None:
    """Returns when every cell of a plan is finished or has failed.

    A cell that another process trains is waited for, and trained here if
    that process dies.

    Args:
        plan: of the comparison.
        run: trains one cell.
        wanted: asked before each cell; False ends the work.
        most: cells that are tried here; None is all.
    """
    tried = 0
    waiting = list(plan.tasks)
    while waiting:
        busy = []
        for task in waiting:
            if not wanted() or tried == most:
                return
            with locks.try_lock(plan.lock(task)) as mine:
                if not mine:
                    busy.append(task)
                elif not plan.done(task) and not plan.failed(task):
                    _run_one(plan, task, run)
                    tried += 1
        waiting = busy
        if waiting:
            time.sleep(_POLL_S)


def record_failure(
    plan: Plan, task: Task, reason: str, details: str = ""
) -> None:
    """Records that a cell failed, for the tables and for a person.

    Args:
        plan: of the comparison.
        task: the cell.
        reason: one line.
        details: such as a traceback.
    """
    values = {
        "name": task.name,
        "key": task.key,
        "reason": _one_line(reason),
        "details": details,
    }
    write_text(plan.failure(task), json.dumps(values, indent=2) + "\n")


def _one_line(reason: str) -> str:
    """Returns a reason without line breaks and colours, not too long."""
    text = " ".join(_COLORS.sub("", reason).split())
    return text if len(text) <= _LENGTH else text[: _LENGTH - 1] + "…"


def read_failure(plan: Plan, task: Task) -> str:
    """Returns why a cell failed, in one line."""
    values = json.loads(plan.failure(task).read_text(encoding="utf-8"))
    return str(values["reason"])


def _run_one(plan: Plan, task: Task, run: Callable[[Plan, Task], None]) -> None:
    try:
        run(plan, task)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        record_failure(plan, task, reason, traceback.format_exc())


if __name__ == "__main__":
    from muse_tools.compare.cell import run_cell

    parent = os.getppid()
    work(
        Plan.load(pathlib.Path(sys.argv[1])),
        run_cell,
        # Whoever started this may have been killed.
        lambda: os.getppid() == parent,
        CELLS_OF_A_PROCESS,
    )
