"""How far the cells of a plan are, and how long the rest takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from muse_tools.compare.plan import Plan, Task

__all__ = ["Tracker", "shown"]

Report = Callable[[str], None]


class Tracker:
    """Counts finished cells by looking at their folders.

    Args:
        plan: of the comparison.
        clock: seconds that only rise.
    """

    def __init__(
        self, plan: Plan, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._plan = plan
        self._clock = clock
        self._start = clock()
        self._ended = {
            task.key for task in plan.tasks if self._state(task) is not None
        }
        self._before = len(self._ended)

    def _state(self, task: Task) -> str | None:
        if self._plan.done(task):
            return "done"
        return "failed" if self._plan.failed(task) else None

    def look(self) -> list[str]:
        """Returns a line for each cell that ended since the last look."""
        lines = []
        for task in self._plan.tasks:
            if task.key in self._ended:
                continue
            state = self._state(task)
            if state:
                self._ended.add(task.key)
                lines.append(f"{task.name}: {state}")
        return lines

    @property
    def total(self) -> int:
        """All cells."""
        return len(self._plan.tasks)

    @property
    def ended(self) -> int:
        """Cells that are finished or have failed."""
        return len(self._ended)

    def seconds_left(self) -> float | None:
        """Returns an estimate from the pace so far; None before a cell."""
        fresh = self.ended - self._before
        if not fresh:
            return None
        pace = (self._clock() - self._start) / fresh
        return pace * (self.total - self.ended)

    def left(self) -> str:
        """Returns the time left in words."""
        seconds = self.seconds_left()
        if seconds is None:
            return "time left unknown"
        if seconds < 90:
            return f"about {seconds:.0f} s left"
        return f"about {seconds / 60:.0f} min left"


@contextlib.contextmanager
def shown(tracker: Tracker, report: Report) -> Iterator[Callable[[], None]]:
    """Shows progress: a bar on a terminal, lines elsewhere.

    Args:
        tracker: of the plan.
        report: receives lines where there is no terminal.

    Yields:
        A function that looks again and shows what is new.
    """
    console = Console(stderr=True)
    if not console.is_terminal:

        def tell() -> None:
            for line in tracker.look():
                report(
                    f"cell {tracker.ended} of {tracker.total}, {line}, "
                    f"{tracker.left()}"
                )

        yield tell
        return
    with Progress(
        TextColumn("cells"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
    ) as bar:
        row = bar.add_task(tracker.left(), total=tracker.total)

        def show() -> None:
            for line in tracker.look():
                console.print(line, highlight=False)
            bar.update(row, completed=tracker.ended, description=tracker.left())

        show()
        yield show
