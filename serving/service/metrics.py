"""Metrics of the ranking service, in Prometheus' text format."""

from __future__ import annotations

from serving.server.metrics import Counter, Gauge, Histogram

__all__ = ["Level", "ServiceMetrics"]

_SECONDS = tuple(0.001 * 2**power for power in range(14))
"""From 1 ms to 8 s."""


class Level(Gauge):
    """A gauge that is set."""

    def set(self, value: float, *labels: str) -> None:
        """Sets the number of these label values."""
        with self._lock:
            self._values[labels] = value


class ServiceMetrics:
    """The metrics of one service."""

    def __init__(self) -> None:
        """Makes them, all empty."""
        self.requests = Counter(
            "muse_ranking_requests_total",
            "Requests answered, by the path that they took.",
            ("path", "candidates_from"),
        )
        self.failed = Counter(
            "muse_ranking_failed_total",
            "Requests refused or without an answer, by gRPC status.",
            ("code",),
        )
        self.shed = Counter(
            "muse_ranking_shed_total",
            "Requests refused because of load, by reason.",
            ("reason",),
        )
        self.latency = Histogram(
            "muse_ranking_latency_seconds",
            "From arrival to answer, by path.",
            ("path",),
            _SECONDS,
        )
        self.late = Counter(
            "muse_ranking_late_total",
            "Answers after their deadline.",
            ("path",),
        )
        self.stages = Histogram(
            "muse_ranking_stage_seconds",
            "Duration of stages, by outcome.",
            ("stage", "outcome"),
            _SECONDS,
        )
        self.cache = Counter(
            "muse_ranking_cache_lookups_total",
            "Rankings from the user cache, by result.",
            ("result",),
        )
        self.in_flight = Level(
            "muse_ranking_in_flight", "Requests being answered.", ()
        )
        self.queued = Level(
            "muse_ranking_queued", "Requests waiting for a place.", ()
        )
        self.background = Level(
            "muse_ranking_background_prefetches",
            "Prefetches that go on after their answer.",
            (),
        )
        self.targets = Level(
            "muse_ranking_target_up",
            "Whether a model server is thought to answer.",
            ("target",),
        )
        self.store = Level(
            "muse_ranking_store_up", "Whether the store answers.", ()
        )
        self.ready = Level(
            "muse_ranking_ready", "What readiness checks are told.", ()
        )
        self.user_cache = Level(
            "muse_user_cache",
            "Statistics of the model's user cache, when last asked for.",
            ("target", "statistic"),
        )

    def page(self) -> str:
        """All metrics in the text exposition format."""
        lines = []
        for metric in vars(self).values():
            samples = metric.lines()
            if samples:
                lines.append(f"# HELP {metric.name} {metric.text}")
                lines.append(f"# TYPE {metric.name} {metric.kind}")
                lines += samples
        return "\n".join(lines) + "\n"
