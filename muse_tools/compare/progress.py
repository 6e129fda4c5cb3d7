"""Shows the progress of a plan's cells and estimates the time left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from muse_tools.compare.plan import Plan


def time_left(seconds: float, ended: int, missing: int) -> str:
    """Estimates the time for the missing cells from the ended ones."""
    if not ended:
        return "time left unknown"
    rest = seconds / ended * missing
    if rest < 90:
        return f"about {rest:.0f} s left"
    return f"about {rest / 60:.0f} min left"


@contextlib.contextmanager
def shown(
    plan: Plan, report: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    """Shows progress: a bar on a terminal, otherwise lines by `report`.

    Yields a function that checks the folders of the cells and shows new ones,
    also those trained by other commands.
    """
    console = Console(stderr=True)
    start = time.monotonic()
    ended = {task.key for task in plan.tasks if not plan.open(task)}
    before = len(ended)
    with Progress(
        TextColumn("cells"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        row = bar.add_task("", total=len(plan.tasks), completed=before)

        def show() -> None:
            for task in plan.tasks:
                if task.key in ended or plan.open(task):
                    continue
                ended.add(task.key)
                line = f"{task.name}: {'done' if plan.done(task) else 'failed'}"
                left = time_left(
                    time.monotonic() - start,
                    len(ended) - before,
                    len(plan.tasks) - len(ended),
                )
                bar.update(row, completed=len(ended), description=left)
                if console.is_terminal:
                    console.print(line, highlight=False)
                else:
                    number = f"cell {len(ended)} of {len(plan.tasks)}"
                    report(f"{number}, {line}, {left}")

        yield show
