"""When a failed call is sent again, and how long each attempt may take."""

from __future__ import annotations

import math
import random
import time
from typing import Any

from serving.client.calls import Call
from serving.client.errors import (
    CallError,
    DeadlineError,
    RequestError,
    UnavailableError,
)
from serving.client.settings import Retry, Timeouts

_BUSY = "Server Threadpool Exhausted"
_WHEN_BUSY = Retry(first=0.002, factor=2.0, longest=0.1)
_MAX_GROWTH = 16
"""Number of failures after which the pause no longer grows."""


class Attempts:
    """The attempts at the calls of one method. It never waits itself.

    `timeout` limits all calls together; the client's limits apply to each.
    """

    def __init__(
        self, timeout: float | None, timeouts: Timeouts, retry: Retry
    ) -> None:
        if timeout is not None and not 0 < timeout < math.inf:
            raise RequestError("timeout", "be above 0 seconds", timeout)
        self._is_shared = timeout is not None
        self._total = timeouts.total if timeout is None else timeout
        self._longest = timeouts.call if timeout is None else timeout
        self._retry = retry
        self._end = time.monotonic() + self._total
        self._made = self._busy = 0

    def next_call(self) -> None:
        """Starts counting the attempts of the next call."""
        self._made = self._busy = 0
        if not self._is_shared:
            self._end = time.monotonic() + self._total

    def seconds(self) -> float:
        """Begins an attempt and returns the seconds that it may take.

        Raises `DeadlineError` if there is no time left.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise DeadlineError(
                "DEADLINE_EXCEEDED",
                f"no answer within {self._total:.3g} s in all",
            )
        self._made += 1
        return min(self._longest, left)

    def pause(self, call: Call[Any], error: CallError) -> float:
        """Returns the pause before the next attempt, or raises `error`.

        A model server whose gRPC threads are all busy rejects calls at once.
        Such a call is repeated until the time runs out, however often.
        """
        busy = error.code == "RESOURCE_EXHAUSTED" and _BUSY in error.message
        if busy:
            self._busy += 1
        retry = _WHEN_BUSY if busy else self._retry
        made = self._busy if busy else self._made - self._busy
        pause = retry.pause(min(made, _MAX_GROWTH), random.random())
        if (
            not (busy or isinstance(error, UnavailableError))
            or (not busy and made >= retry.attempts)
            or not call.may_repeat(error)
            or time.monotonic() + pause >= self._end
        ):
            raise error
        return pause
