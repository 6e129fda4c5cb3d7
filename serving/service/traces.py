"""OpenTelemetry spans of answered requests, where they are asked for.

Spans are written after the answer, from the stages' times, so that a request
does not pay for them.
"""

from __future__ import annotations

import threading
from typing import Any

from serving.client.ranking import RankingRequest, RankingResult

__all__ = ["Traces"]


class Traces:
    """Writes a span per request, and one below it per stage.

    Args:
        destination: `console`, an OTLP endpoint by HTTP, or empty for none.
        exporter: where spans go instead, an OpenTelemetry exporter.

    Raises:
        RuntimeError: a package is missing.
    """

    def __init__(self, destination: str, exporter: Any = None) -> None:
        """Keeps the settings; see the class for the arguments."""
        self._provider: Any = None
        if not destination and exporter is None:
            return
        try:
            from opentelemetry import trace
            from opentelemetry.sdk import resources
            from opentelemetry.sdk import trace as sdk
            from opentelemetry.sdk.trace import export
        except ImportError as error:
            raise RuntimeError(
                "traces need the package opentelemetry-sdk"
            ) from error
        self._trace = trace
        self._provider = sdk.TracerProvider(
            resource=resources.Resource.create({"service.name": "muse-ranking"})
        )
        if exporter is None and destination == "console":
            exporter = export.ConsoleSpanExporter()
        elif exporter is None:
            exporter = _otlp(destination)
        self._provider.add_span_processor(export.BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("serving.service")

    def write(
        self, request: RankingRequest, result: RankingResult, start: float
    ) -> None:
        """Writes the spans of one request.

        Args:
            request: what was asked.
            result: the answer.
            start: when the request came in, seconds since 1970.
        """
        if self._provider is None:
            return
        root = self._tracer.start_span(
            "rank",
            start_time=_nanoseconds(start, 0),
            attributes={
                "muse.request_id": result.request_id,
                "muse.user_id": request.user_id,
                "muse.path": result.path,
                "muse.candidates": len(result.candidate_item_ids),
                "muse.deadline_ms": float(request.deadline_ms),
            },
        )
        context = self._trace.set_span_in_context(root)
        for stage in result.stages:
            span = self._tracer.start_span(
                stage.name,
                context=context,
                start_time=_nanoseconds(start, stage.start_ms),
                attributes={"muse.outcome": stage.outcome},
            )
            span.end(_nanoseconds(start, stage.start_ms + stage.duration_ms))
        root.end(_nanoseconds(start, result.total_ms))

    def close(self, seconds: float) -> None:
        """Sends what is left.

        Args:
            seconds: how long to wait for it; an endpoint may be down.
        """
        if self._provider is None:
            return
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(seconds)


def _nanoseconds(start: float, milliseconds: float) -> int:
    return int(start * 1e9 + milliseconds * 1e6)


def _otlp(endpoint: str) -> Any:
    try:
        from opentelemetry.exporter.otlp.proto.http import trace_exporter
    except ImportError as error:
        raise RuntimeError(
            "traces to an endpoint need the package "
            "opentelemetry-exporter-otlp-proto-http"
        ) from error
    return trace_exporter.OTLPSpanExporter(endpoint=endpoint)
