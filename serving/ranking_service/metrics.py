"""Metrics of the ranking service, by prometheus-client."""

from __future__ import annotations

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram

_SECONDS = tuple(0.001 * 2**power for power in range(14))
"""Histogram buckets from 1 ms to 8 s."""


class ServiceMetrics:
    """The metrics of one service, in a separate registry."""

    def __init__(self, with_store: bool) -> None:
        registry = self._registry = prometheus_client.CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(
                f"muse_ranking_{name}", text, labels, registry=registry
            )

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(
                f"muse_ranking_{name}",
                text,
                labels,
                registry=registry,
                buckets=_SECONDS,
            )

        self.requests = counter(
            "requests_total",
            "Requests answered, by the path that they took.",
            *("path", "candidates_from"),
        )
        self.failed = counter(
            "failed_total",
            "Requests rejected or without an answer, by gRPC status.",
            "code",
        )
        self.shed = counter(
            "shed_total", "Requests rejected because of load.", "reason"
        )
        self.latency = histogram(
            "latency_seconds", "From arrival to answer, by path.", "path"
        )
        self.late = counter(
            "late_total", "Answers after their deadline.", "path"
        )
        self.stages = histogram(
            "stage_seconds",
            "Duration of stages, by outcome.",
            *("stage", "outcome"),
        )
        self.cache = counter(
            "cache_lookups_total",
            "Rankings from the user cache, by result.",
            "result",
        )
        self.moved = counter(
            "moved_prefetches_total",
            "Prefetches to another server than the user's, as that was full "
            "or down.",
        )
        self.in_flight = gauge(
            "muse_ranking_in_flight", "Requests being answered."
        )
        self.queued = gauge(
            "muse_ranking_queued", "Requests waiting for a place."
        )
        self.background = gauge(
            "muse_ranking_background_prefetches",
            "Prefetches that continue after their answer.",
        )
        self.targets = gauge(
            "muse_ranking_target_up",
            "Whether a model server is considered up.",
            "target",
        )
        self.ready = gauge(
            "muse_ranking_ready", "Result of the readiness check."
        )
        self.user_cache = gauge(
            "muse_user_cache",
            "Latest statistics of the model's user cache.",
            *("target", "statistic"),
        )
        if with_store:
            self.store = gauge(
                "muse_ranking_store_up", "Whether the store answers."
            )

    def forget(self, target: str) -> None:
        """Removes the metrics of a model server that is gone."""
        for metric in (self.targets, self.user_cache):
            metric.remove_by_labels({"target": target})

    def page(self) -> str:
        """Returns all metrics in the text exposition format."""
        return prometheus_client.generate_latest(self._registry).decode()
