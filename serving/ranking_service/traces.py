"""Where the OpenTelemetry spans of requests go."""

from __future__ import annotations

import threading

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SpanExporter,
)
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

__all__ = ["Traces"]


class Traces:
    """Makes spans and exports them where that is asked for.

    Attributes:
        tracer: makes the spans.

    Raises:
        RuntimeError: the OTLP exporter is not installed.
    """

    def __init__(
        self, destination: str, exporter: SpanExporter | None = None
    ) -> None:
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # The answers' stages are made from the spans.
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
        """Sends what is left."""
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
