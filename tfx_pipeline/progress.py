"""Reports progress of all parts of the pipeline through one logger."""

from __future__ import annotations

import logging
import time

LOGGER_NAME = "muse.progress"


def report(message: str) -> None:
    """Reports one line of progress."""
    logging.getLogger(LOGGER_NAME).info(message)


class Throttle:
    """Limits how often progress is reported.

    Args:
        interval_s: least number of seconds between two lines.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._last = time.monotonic()

    def ready(self) -> bool:
        """Returns True at most once per interval."""
        now = time.monotonic()
        if now - self._last < self._interval_s:
            return False
        self._last = now
        return True
