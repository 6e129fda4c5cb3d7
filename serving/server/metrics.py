"""Counters and histograms in Prometheus' text format.

Names, labels and buckets are those of TensorFlow Serving, whose colons and
missing `_total` client libraries do not write.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Sequence

__all__ = ["Counter", "Gauge", "Histogram", "Metrics"]

_LATENCY_BUCKETS = tuple(10.0 * 1.8**power for power in range(33))
"""Microseconds, from 10 to about 1.2e9."""


class Counter:
    """A number per combination of labels, only growing.

    Args:
        name: metric name.
        text: what it counts.
        labels: label names.
    """

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        """Keeps the settings; see the class for the arguments."""
        self.name = name
        self.text = text
        self.labels = tuple(labels)
        self._lock = threading.Lock()
        self._values: dict[tuple[str, ...], float] = {}

    def add(self, *labels: str, amount: float = 1.0) -> None:
        """Adds to the number of these label values."""
        with self._lock:
            self._values[labels] = self._values.get(labels, 0.0) + amount

    def lines(self) -> list[str]:
        """The samples as text lines."""
        with self._lock:
            values = sorted(self._values.items())
        return [
            f"{self.name}{_labels(self.labels, key)} {_number(value)}"
            for key, value in values
        ]


class Gauge(Counter):
    """A number per combination of labels, going up and down."""

    kind = "gauge"


class Histogram:
    """Counts per bucket and combination of labels.

    Args:
        name: metric name.
        text: what it measures.
        labels: label names.
        buckets: upper bounds, ascending.
    """

    kind = "histogram"

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        buckets: Sequence[float] = _LATENCY_BUCKETS,
    ) -> None:
        """Keeps the settings; see the class for the arguments."""
        self.name = name
        self.text = text
        self.labels = tuple(labels)
        self.buckets = tuple(buckets)
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Adds one measurement."""
        index = bisect.bisect_left(self.buckets, value)
        with self._lock:
            counts = self._counts.setdefault(
                labels, [0] * (len(self.buckets) + 1)
            )
            counts[index] += 1
            self._sums[labels] = self._sums.get(labels, 0.0) + value

    def lines(self) -> list[str]:
        """The samples as text lines."""
        with self._lock:
            snapshot = [
                (key, list(counts), self._sums[key])
                for key, counts in sorted(self._counts.items())
            ]
        lines = []
        names = (*self.labels, "le")
        bounds = [*(_number(b) for b in self.buckets), "+Inf"]
        for key, counts, total in snapshot:
            running = 0
            for bound, count in zip(bounds, counts, strict=True):
                running += count
                lines.append(
                    f"{self.name}_bucket{_labels(names, (*key, bound))} "
                    f"{running}"
                )
            suffix = _labels(self.labels, key)
            lines.append(f"{self.name}_sum{suffix} {_number(total)}")
            lines.append(f"{self.name}_count{suffix} {running}")
        return lines


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        """Keeps the settings; see the class for the arguments."""
        self.request_count = Counter(
            ":tensorflow:serving:request_count",
            "The total number of requests.",
            ("model_name", "status"),
        )
        self.request_latency = Histogram(
            ":tensorflow:serving:request_latency",
            "Distribution of wall time, in microseconds, per request.",
            ("model_name", "API", "entrypoint"),
        )
        self.load_attempts = Counter(
            ":tensorflow:cc:saved_model:load_attempt_count",
            "The number of times a SavedModel was requested to be loaded.",
            ("model_path", "status"),
        )
        self.load_latency = Counter(
            ":tensorflow:cc:saved_model:load_latency",
            "Time in microseconds of loading SavedModels.",
            ("model_path",),
        )
        self.warmup_latency = Histogram(
            ":tensorflow:serving:model_warmup_latency",
            "Distribution of wall time, in microseconds, of warming up.",
            ("model_path", "status"),
        )
        self.in_flight = Gauge(
            "muse_server_requests_in_flight",
            "Requests being answered, those that wait included.",
            ("entrypoint",),
        )
        self.waiting = Gauge(
            "muse_server_requests_waiting",
            "Requests that wait for a thread.",
            ("entrypoint",),
        )
        self.refused = Counter(
            "muse_server_requests_refused_total",
            "Requests that were refused: too many, too large, or the server "
            "is stopping.",
            ("entrypoint",),
        )
        self.loaded = Gauge(
            "muse_server_versions_loaded",
            "Versions in memory.",
            ("model_name",),
        )

    def page(self) -> str:
        """All metrics in the text exposition format."""
        lines = []
        for metric in vars(self).values():
            samples = metric.lines()
            if not samples:
                continue
            lines.append(f"# HELP {metric.name} {metric.text}")
            lines.append(f"# TYPE {metric.name} {metric.kind}")
            lines += samples
        return "\n".join(lines) + "\n"


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    escaped = (
        value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        for value in values
    )
    pairs = (f'{n}="{v}"' for n, v in zip(names, escaped, strict=True))
    return "{" + ",".join(pairs) + "}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
