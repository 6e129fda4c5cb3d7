"""How often and how long a call is tried: the rules, without the waiting."""

from __future__ import annotations

import math
import random
import time

from serving.client.errors import (
    CallError,
    DeadlineError,
    RequestError,
    UnavailableError,
)
from serving.client.settings import Retry, Timeouts

__all__ = ["Attempts", "Budget"]

_BUSY = "Server Threadpool Exhausted"
_WHEN_BUSY = Retry(first=0.002, factor=2.0, longest=0.1)
_MOST = 16
"""Failures after which the pause does not grow any more."""


class Budget:
    """The time that the caller gave to all that a method does.

    Args:
        timeout: seconds from now; None leaves the client's own limits, which
            hold for each call to the server.

    Raises:
        RequestError: it is not a number above 0.
    """

    def __init__(self, timeout: float | None) -> None:
        """Starts the clock; see the class for the arguments."""
        if timeout is not None and not 0 < timeout < math.inf:
            raise RequestError("timeout", "be above 0 seconds", timeout)
        self.timeout = timeout
        self._end = None if timeout is None else time.monotonic() + timeout

    def attempts(self, timeouts: Timeouts, retry: Retry) -> Attempts:
        """Rules for one call to the server.

        Args:
            timeouts: the client's limits.
            retry: the client's further attempts.
        """
        if self.timeout is None or self._end is None:
            end = time.monotonic() + timeouts.total
            return Attempts(end, timeouts.total, timeouts.call, retry)
        return Attempts(self._end, self.timeout, self.timeout, retry)


class Attempts:
    """One call to a server: what an attempt may take, and when to stop.

    Args:
        end: when all of it must be over, by `time.monotonic`.
        total: the seconds that this was when it began, for the error.
        longest: most seconds of one attempt.
        retry: further attempts.
    """

    def __init__(
        self, end: float, total: float, longest: float, retry: Retry
    ) -> None:
        """Keeps the settings; see the class for the arguments."""
        self._end = end
        self._total = total
        self._longest = longest
        self._retry = retry
        self._made = 0
        self._busy = 0

    def seconds(self) -> float:
        """Begins an attempt.

        Returns:
            Seconds that it may take.

        Raises:
            DeadlineError: there is no time left.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise DeadlineError(
                "DEADLINE_EXCEEDED",
                f"no answer within {self._total:.3g} s in all",
            )
        self._made += 1
        return min(self._longest, left)

    def pause(self, error: CallError) -> float:
        """Decides about another attempt.

        A model server whose gRPC threads all work refuses calls at once. Such
        a call is tried as long as there is time, whatever the attempts.

        Args:
            error: how the last one failed.

        Returns:
            Seconds to wait before it.

        Raises:
            CallError: there is to be none; it is `error`.
        """
        busy = error.code == "RESOURCE_EXHAUSTED" and _BUSY in error.message
        if busy:
            self._busy += 1
        retry = _WHEN_BUSY if busy else self._retry
        made = self._busy if busy else self._made - self._busy
        pause = retry.pause(min(made, _MOST), random.random())
        if (
            not (busy or isinstance(error, UnavailableError))
            or (not busy and made >= retry.attempts)
            or time.monotonic() + pause >= self._end
        ):
            raise error
        return pause
