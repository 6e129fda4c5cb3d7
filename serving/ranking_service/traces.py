"""The stages of a request, as OpenTelemetry spans.

Stages are only recorded as spans: the answer's `stages`, the metric of stages
and the exported trace are derived from them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Iterator

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SpanExporter,
)
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from prometheus_client import Histogram

from serving.client import DeadlineError, MuseClientError
from serving.client.ranking import RankingRequest, RankingResult, Stage
from serving.stores import StoreError

_logger = logging.getLogger(__name__)
_OUTCOME = "muse.outcome"


class Traces:
    """Creates spans and exports them if configured."""

    def __init__(
        self, destination: str, exporter: SpanExporter | None = None
    ) -> None:
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # The answers' stages are derived from spans.
            resource=Resource.create({"service.name": "muse-ranking"}),
        )
        if destination == "console":
            exporter = exporter or ConsoleSpanExporter()
        elif destination:
            exporter = exporter or _otlp(destination)
        if exporter is not None:
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracer = self._provider.get_tracer("serving.ranking_service")

    def close(self, seconds: float) -> None:
        """Exports the remaining spans, within the time limit."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(seconds)


def _otlp(endpoint: str) -> SpanExporter:
    try:
        from opentelemetry.exporter.otlp.proto.http import trace_exporter
    except ImportError as error:
        raise RuntimeError(
            "traces to an endpoint need the package "
            "opentelemetry-exporter-otlp-proto-http"
        ) from error
    exporter: SpanExporter = trace_exporter.OTLPSpanExporter(endpoint=endpoint)
    return exporter


class _RunningStage:
    """A running stage; `outcome` is set if it is not `ok`."""

    def __init__(self, span: trace.Span) -> None:
        self.span = span
        self.outcome = "ok"


class Recorder:
    """Records the stages of one request."""

    def __init__(self, tracer: trace.Tracer, durations: Histogram) -> None:
        self._tracer = tracer
        self._durations = durations
        self._began = time.time_ns()
        self.start = time.monotonic()
        self._root = tracer.start_span("rank", Context())
        self._context = trace.set_span_in_context(self._root, Context())
        self._spans: list[trace.Span] = []

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[_RunningStage]:
        """Records a stage and suppresses its errors, as other paths follow.

        An error sets the stage's outcome. Only cancellation is raised.
        """
        stage = _RunningStage(self._begin(name))
        try:
            yield stage
        except asyncio.CancelledError:
            stage.outcome = "cancelled"
            raise
        except (asyncio.TimeoutError, DeadlineError):
            stage.outcome = "timeout"
        except (MuseClientError, StoreError) as error:
            stage.outcome = "error"
            level = logging.DEBUG
            if isinstance(error, StoreError) or name == "prefetch":
                level = logging.WARNING
            _logger.log(level, "Stage %s failed: %s", name, error)
        except Exception:
            stage.outcome = "error"
            _logger.exception("Stage %s failed", name)
        finally:
            span = stage.span
            span.set_attribute(_OUTCOME, stage.outcome)
            span.end()
            if isinstance(span, ReadableSpan):
                seconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e9
                self._durations.labels(name, stage.outcome).observe(seconds)

    def skip(self, name: str) -> None:
        """Records that a stage was skipped."""
        span = self._begin(name)
        span.set_attribute(_OUTCOME, "skipped")
        span.end()

    def adopt(self, span: trace.Span) -> None:
        """Adds a stage that another request started."""
        if span not in self._spans:
            self._spans.append(span)

    def stages(self) -> tuple[Stage, ...]:
        """The stages so far by start time; running ones end now."""
        now = time.time_ns()
        found = []
        for span in self._spans:
            if not isinstance(span, ReadableSpan):
                continue  # The environment disables OpenTelemetry.
            # A shared stage may have started before this request.
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
        """Milliseconds since the arrival of the request."""
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

    def _begin(self, name: str) -> trace.Span:
        span = self._tracer.start_span(name, self._context)
        self._spans.append(span)
        return span
