"""Metrics of the model server, by prometheus-client.

Names, labels and buckets are those of TensorFlow Serving. Its counters do not
end with `_total`, which prometheus-client appends to the name of a `Counter`,
so they are gauges that only grow.
"""

from __future__ import annotations

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram

_BUCKETS = tuple(10.0 * 1.8**power for power in range(33))
"""Buckets in microseconds, from 10 to about 1.2e9."""


class Metrics:
    """The metrics of one server, in a separate registry."""

    def __init__(self) -> None:
        registry = self._registry = prometheus_client.CollectorRegistry()

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(
                name, text, labels, buckets=_BUCKETS, registry=registry
            )

        self.request_count = gauge(
            ":tensorflow:serving:request_count",
            "The total number of requests.",
            *("model_name", "status"),
        )
        self.request_latency = histogram(
            ":tensorflow:serving:request_latency",
            "Distribution of wall time, in microseconds, per request.",
            *("model_name", "API", "entrypoint"),
        )
        self.load_attempts = gauge(
            ":tensorflow:cc:saved_model:load_attempt_count",
            "The number of times a SavedModel was requested to be loaded.",
            *("model_path", "status"),
        )
        self.load_latency = gauge(
            ":tensorflow:cc:saved_model:load_latency",
            "Time in microseconds of loading SavedModels.",
            "model_path",
        )
        self.warmup_latency = histogram(
            ":tensorflow:serving:model_warmup_latency",
            "Distribution of wall time, in microseconds, of warming up.",
            *("model_path", "status"),
        )
        self.in_flight = gauge(
            "muse_server_requests_in_flight",
            "Requests being answered, including those that wait.",
            "entrypoint",
        )
        self.waiting = gauge(
            "muse_server_requests_waiting",
            "Requests that wait for a thread.",
            "entrypoint",
        )
        self.refused = Counter(
            "muse_server_requests_refused",
            "Requests that were rejected: too many, too large, or the server "
            "is stopping.",
            ["entrypoint"],
            registry=registry,
        )
        self.loaded = gauge(
            "muse_server_versions_loaded",
            "Versions in memory.",
            "model_name",
        )

    def page(self) -> str:
        """Returns all metrics in the text exposition format."""
        return prometheus_client.generate_latest(self._registry).decode()
