"""OpenTelemetry spans of answered requests."""

from __future__ import annotations

import threading

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
    InMemorySpanExporter,
)

from serving.client.ranking import RankingClient, RankingRequest
from serving.ranking_service import ServiceConfig, running_service
from serving.ranking_service.traces import Traces
from tests.serving.ranking_service.conftest import settings


def test_a_span_per_request_and_one_below_it_per_stage(site) -> None:
    exporter = InMemorySpanExporter()
    request = site.request()
    question = RankingRequest(
        request.user_id, request.candidate_item_ids, request_id="traced"
    )
    with running_service(ServiceConfig(**settings(site))) as app:
        app.service._traces = Traces("", exporter)
        with RankingClient(app.grpc_target) as client:
            answer = client.rank(question)
    # The service has sent what was left when it stopped.
    spans = exporter.get_finished_spans()
    (root,) = [span for span in spans if span.parent is None]
    assert root.name == "rank"
    assert dict(root.attributes) == {
        "muse.request_id": "traced",
        "muse.user_id": request.user_id,
        "muse.path": "cached",
        "muse.candidates": len(request.candidate_item_ids),
        "muse.deadline_ms": 8000.0,
    }
    assert root.resource.attributes["service.name"] == "muse-ranking"
    below = sorted(
        (span for span in spans if span is not root),
        key=lambda span: span.start_time,
    )
    assert len(below) == len(answer.stages) >= 3
    for span in below:
        assert span.parent.span_id == root.context.span_id
        assert span.context.trace_id == root.context.trace_id
        assert root.start_time <= span.start_time <= span.end_time
        assert span.end_time <= root.end_time
    stages = {span.name: span for span in below}
    for stage in answer.stages:
        span = stages[stage.name]
        assert span.attributes["muse.outcome"] == stage.outcome
        lasted = (span.end_time - span.start_time) / 1e6
        assert lasted == pytest.approx(stage.duration_ms, abs=0.01)


def test_an_endpoint_that_hangs_does_not_hold_the_stop() -> None:
    release = threading.Event()

    class Hanging(SpanExporter):
        def export(self, spans) -> SpanExportResult:
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None:
            release.wait()

    traces = Traces("", Hanging())
    traces.close(0.05)
    assert not release.is_set()
    release.set()


def test_none_are_exported_unless_asked_for(capfd) -> None:
    traces = Traces("")
    traces.tracer.start_span("rank").end()
    traces.close(5)
    assert capfd.readouterr().out == ""
