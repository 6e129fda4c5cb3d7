"""What happened while one request was answered, and when."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from serving.client.ranking import Stage

__all__ = ["Recorder", "Span"]


@dataclasses.dataclass
class Span:
    """One stage.

    Attributes:
        name: of the stage.
        start: seconds, by the recorder's clock.
        end: None while it runs.
        outcome: how it ended.
    """

    name: str
    start: float
    end: float | None = None
    outcome: str = "running"


class Recorder:
    """Collects the stages of one request.

    Args:
        clock: seconds.

    Attributes:
        start: when the request came in.
        wall_start: the same, in seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Keeps the settings; see the class for the arguments."""
        self._clock = clock
        self.start = clock()
        self.wall_start = time.time()
        self._spans: list[Span] = []

    def begin(self, name: str) -> Span:
        """Starts a stage."""
        span = Span(name, self._clock())
        self._spans.append(span)
        return span

    def finish(self, span: Span, outcome: str) -> float:
        """Ends a stage.

        Returns:
            Its duration in seconds.
        """
        if span.end is None:
            span.end = self._clock()
            span.outcome = outcome
        return span.end - span.start

    def cut(self, outcome: str) -> None:
        """Ends all stages that still run."""
        for span in self._spans:
            self.finish(span, outcome)

    def adopt(self, span: Span) -> None:
        """Adds a stage that other requests may share."""
        self._spans.append(span)

    def skip(self, name: str) -> None:
        """Notes that a stage was left out."""
        now = self._clock()
        self._spans.append(Span(name, now, now, "skipped"))

    def stages(self) -> tuple[Stage, ...]:
        """The stages so far, by start; what runs is cut here."""
        now = self._clock()
        found = []
        for span in self._spans:
            # A shared stage may have begun before this request.
            start = max(span.start, self.start)
            end = max(start, now if span.end is None else span.end)
            found.append(
                Stage(
                    span.name,
                    1e3 * (start - self.start),
                    1e3 * (end - start),
                    span.outcome,
                )
            )
        return tuple(sorted(found, key=lambda stage: stage.start_ms))

    def elapsed_ms(self) -> float:
        """Milliseconds since the request came in."""
        return 1e3 * (self._clock() - self.start)
