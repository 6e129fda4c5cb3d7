"""The stages of one request, as OpenTelemetry spans.

The spans are the only record: the answer's `stages`, the metric of stages and
the exported trace come from them.
"""

from __future__ import annotations

import time

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from prometheus_client import Histogram

from serving.client.ranking import RankingRequest, RankingResult, Stage

__all__ = ["Recorder"]

_OUTCOME = "muse.outcome"


class Recorder:
    """Records the stages of one request.

    Attributes:
        start: when the request came in, by `time.monotonic`.
    """

    def __init__(self, tracer: trace.Tracer, durations: Histogram) -> None:
        self._tracer = tracer
        self._durations = durations
        self._began = time.time_ns()
        self.start = time.monotonic()
        self._root = tracer.start_span("rank", Context())
        self._context = trace.set_span_in_context(self._root, Context())
        self._spans: list[trace.Span] = []

    def begin(self, name: str) -> trace.Span:
        """Starts a stage."""
        span = self._tracer.start_span(name, self._context)
        self._spans.append(span)
        return span

    def finish(self, span: trace.Span, outcome: str) -> None:
        """Ends a stage and counts it."""
        span.set_attribute(_OUTCOME, outcome)
        span.end()
        if isinstance(span, ReadableSpan):
            seconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e9
            self._durations.labels(span.name, outcome).observe(seconds)

    def skip(self, name: str) -> None:
        """Notes that a stage was left out."""
        span = self.begin(name)
        span.set_attribute(_OUTCOME, "skipped")
        span.end()

    def adopt(self, span: trace.Span) -> None:
        """Adds a stage that another request began."""
        if span not in self._spans:
            self._spans.append(span)

    def stages(self) -> tuple[Stage, ...]:
        """The stages so far, by start; what runs is cut here."""
        now = time.time_ns()
        found = []
        for span in self._spans:
            if not isinstance(span, ReadableSpan):
                continue  # The environment has switched OpenTelemetry off.
            # A shared stage may have begun before this request.
            start = max(span.start_time or 0, self._began)
            end = max(start, span.end_time or now)
            found.append(
                Stage(
                    span.name,
                    (start - self._began) / 1e6,
                    (end - start) / 1e6,
                    str((span.attributes or {}).get(_OUTCOME, "running")),
                )
            )
        return tuple(sorted(found, key=lambda stage: stage.start_ms))

    def elapsed_ms(self) -> float:
        """Milliseconds since the request came in."""
        return 1e3 * (time.monotonic() - self.start)

    def end(self, request: RankingRequest, result: RankingResult) -> None:
        """Ends the request's span."""
        self._root.set_attributes(
            {
                "muse.request_id": result.request_id,
                "muse.user_id": request.user_id,
                "muse.path": result.path,
                "muse.candidates": len(result.candidate_item_ids),
                "muse.deadline_ms": float(request.deadline_ms),
            }
        )
        self._root.end()
