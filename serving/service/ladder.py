"""Which ranking is tried next: from the cache, full, shortened."""

from __future__ import annotations

import time

from serving.service.prefetches import Flow
from serving.service.work import Work

__all__ = ["Ladder"]


class Ladder:
    """The steps of one request, best first; each is tried once.

    A step is tried only if it usually leaves time for the ranking without a
    history.

    Args:
        work: the request.
        count: candidates.
    """

    def __init__(self, work: Work, count: int) -> None:
        """Keeps the settings; see the class for the arguments."""
        self._work = work
        self._count = count
        self._over: set[str] = set()

    def next(self) -> tuple[str, float | None]:
        """Chooses the next step.

        Returns:
            A path to try now; or until when to wait for the prefetch, by
            `time.monotonic`; or neither, when nothing is left.
        """
        if "cached" not in self._over:
            path, until = self._cached()
            if path or until is not None:
                return path, until
        if "cached" not in self._over or self._work.flow is None:
            return "", None
        return self._with_history(self._work.flow)

    def _cached(self) -> tuple[str, float | None]:
        work, flow = self._work, self._work.flow
        if flow is None:
            return self._take("cached")
        if flow.done and flow.unknown:
            return "", None  # Nobody knows the user.
        cheapest = self._usual("rank_no_history", 1)
        cached = self._usual("rank_cached", self._length(flow))
        if not flow.done:
            until = work.ends - cached - cheapest
            patience = self._patience(flow)
            if patience is not None:
                until = min(until, patience)
            if time.monotonic() < until:
                return "", until
        # A history in hand is newer than what the cache may have.
        newer = bool(flow.history) and not (flow.done and flow.cached)
        if newer and self._fits("full", flow):
            return self._leave_out("cached")
        if cached <= work.left or cheapest > work.left:
            return self._take("cached")
        return self._leave_out("cached")

    def _with_history(self, flow: Flow) -> tuple[str, float | None]:
        if flow.history is None:
            until = (
                self._work.ends
                - self._usual(
                    "rank_shortened", self._work.config.shortened_length
                )
                - self._usual("rank_no_history", 1)
            )
            if flow.read.is_set() or time.monotonic() >= until:
                return "", None
            return "", until
        for path in ("full", "shortened"):
            if path in self._over or not self._useful(path, flow):
                continue
            if self._fits(path, flow):
                return self._take(path)
            self._leave_out(path)
        return "", None

    def _take(self, path: str) -> tuple[str, None]:
        self._over.add(path)
        return path, None

    def _leave_out(self, path: str) -> tuple[str, None]:
        self._over.add(path)
        self._work.recorder.skip(f"rank_{path}")
        return "", None

    def _useful(self, path: str, flow: Flow) -> bool:
        length = 0 if flow.history is None else len(flow.history)
        least = 1 if path == "full" else self._work.config.shortened_length + 1
        return length >= least

    def _fits(self, path: str, flow: Flow) -> bool:
        """Whether a path usually ends early enough for the cheapest one."""
        length = 0 if flow.history is None else len(flow.history)
        if path == "shortened":
            length = min(length, self._work.config.shortened_length)
        needed = self._usual(f"rank_{path}", length)
        return needed + self._usual("rank_no_history", 1) <= self._work.left

    def _patience(self, flow: Flow) -> float | None:
        """When a prefetch that runs is not worth waiting for any more."""
        if not flow.spans or flow.spans[-1].name != "prefetch":
            return None
        length = self._length(flow)
        waited = self._work.config.patience * self._work.usual(
            "prefetch", length
        ) + self._usual("rank_full", length)
        least = self._work.config.patience_ms / 1e3
        return flow.spans[-1].start + max(least, waited)

    def _length(self, flow: Flow) -> int:
        if flow.history is not None:
            return len(flow.history)
        return self._work.config.shortened_length

    def _usual(self, stage: str, length: int) -> float:
        return self._work.usual(stage, length * self._count)
