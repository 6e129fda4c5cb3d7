"""Learned latencies of the stages, by size.

An estimate is the longest that a call *usually* takes. It rests on the last
`WINDOW` durations of calls of like size:

    estimate = max(median + SPREAD * MAD, quantile HIGH), at most the longest

MAD is the median distance from the median. A single outlier moves neither
part; the quantile holds where durations are of two kinds. Until `PRIORS`
durations are known, the missing ones are filled up with a prior, which should
be the least that a good machine needs: what is never tried is never learned,
and what took too long is learned after two tries. Order
statistics change by one place per call: the estimate follows a lasting change
within half a window and does not swing.

A call that was given up after t counts as t, if that is above the estimate:
it took at least so long. A stage that looks too slow to be tried would never
be measured again, so an estimate above the prior falls back towards it, by
half every `FORGET_S` seconds without a measurement; then it is tried anew.
"""

from __future__ import annotations

import collections
import math
import statistics
import time
from collections.abc import Callable

__all__ = ["Latencies"]

WINDOW = 33
PRIORS = 4
SPREAD = 4.5
HIGH = 0.8
FORGET_S = 20.0


class _Window:
    """The newest durations of one stage and size."""

    def __init__(self) -> None:
        self.durations: collections.deque[float] = collections.deque(
            maxlen=WINDOW
        )
        self.newest = 0.0

    def estimate(self, prior: float, now: float) -> float:
        values = list(self.durations)
        values += [prior] * max(0, PRIORS - len(values))
        middle = statistics.median(values)
        spread = statistics.median(abs(value - middle) for value in values)
        high = sorted(values)[int(HIGH * (len(values) - 1))]
        found = min(max(values), max(high, middle + SPREAD * spread))
        age = now - self.newest
        if found > prior and age > FORGET_S:
            found = prior + (found - prior) * 0.5 ** (age / FORGET_S - 1)
        return found


class Latencies:
    """What each stage usually takes at most.

    Args:
        priors: stage to `(seconds, seconds per cell)`, before anything was
            measured. A cell is a behaviour, or a pair of behaviour and
            candidate: whatever the stage's work grows with.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        priors: dict[str, tuple[float, float]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keeps the settings; see the class for the arguments."""
        self._priors = priors
        self._clock = clock
        self._windows: dict[str, dict[int, _Window]] = {}

    def estimate(self, stage: str, cells: float = 1) -> float:
        """Seconds that a call usually takes at most.

        Without measurements of like size, those of the nearest size count,
        in proportion to the priors of both.

        Args:
            stage: its name.
            cells: size of the work.
        """
        now = self._clock()
        windows = self._windows.get(stage, {})
        bucket = _bucket(cells)
        prior = self._prior(stage, bucket)
        if bucket in windows:
            return windows[bucket].estimate(prior, now)
        nearest = min(windows, key=lambda b: (abs(b - bucket), b), default=None)
        if nearest is None:
            return prior
        other = self._prior(stage, nearest)
        return windows[nearest].estimate(other, now) * prior / other

    def learn(self, stage: str, seconds: float, cells: float = 1) -> None:
        """Takes in how long a call took.

        Args:
            stage: its name.
            seconds: its duration.
            cells: size of the work.
        """
        window = self._windows.setdefault(stage, {}).setdefault(
            _bucket(cells), _Window()
        )
        window.durations.append(seconds)
        window.newest = self._clock()

    def give_up(self, stage: str, seconds: float, cells: float = 1) -> None:
        """Takes in that a call was given up.

        Args:
            stage: its name.
            seconds: how long it was waited for.
            cells: size of the work.
        """
        if seconds > self.estimate(stage, cells):
            self.learn(stage, seconds, cells)

    def table(self) -> dict[str, dict[str, float]]:
        """Estimates of all stages and sizes measured, in seconds."""
        now = self._clock()
        return {
            stage: {
                str(4**bucket): window.estimate(self._prior(stage, bucket), now)
                for bucket, window in sorted(windows.items())
            }
            for stage, windows in sorted(self._windows.items())
        }

    def _prior(self, stage: str, bucket: int) -> float:
        fixed, each = self._priors[stage]
        return fixed + each * 4.0**bucket


def _bucket(cells: float) -> int:
    """Sizes within a factor of four share a window."""
    return max(0, math.ceil(math.log(max(1.0, cells), 4) - 1e-9))
