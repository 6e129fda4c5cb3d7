"""The page of metrics."""

from __future__ import annotations

import time
import urllib.request

from prometheus_client import parser

from serving.client.ranking import RankingClient, RankingRequest
from serving.client.user_cache import CACHE_STATISTICS
from serving.ranking_service import ServiceConfig, running_service
from tests.serving import monitored
from tests.serving.ranking_service.conftest import settings


def page(app) -> dict[str, dict[tuple, float]]:
    """Values by name and labels; a page that is no page fails."""
    with urllib.request.urlopen(app.rest_url + "/metrics", timeout=20) as found:
        assert found.headers["Content-Type"].startswith("text/plain")
        text = found.read().decode()
    values: dict[str, dict[tuple, float]] = {}
    for family in parser.text_string_to_metric_families(text):
        assert family.documentation and family.type != "unknown"
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.values()))
            values.setdefault(sample.name, {})[labels] = sample.value
    return values


def test_what_the_page_says(site) -> None:
    config = ServiceConfig(**settings(site, poll_seconds=0.1))
    request = site.request()
    with running_service(config) as app:
        with RankingClient(app.grpc_target) as client:
            for _ in range(3):
                answer = client.rank(
                    RankingRequest(request.user_id, request.candidate_item_ids)
                )
                assert answer.path == "cached"
            unknown = client.rank(RankingRequest(5, [3]))
            assert unknown.path == "no_history"
        before = time.monotonic()
        # Statistics of the model's cache come with the next poll.
        first = page(app)
        server = site.model_server
        while time.monotonic() < before + 20:
            found = page(app)
            if found["muse_user_cache"] != first["muse_user_cache"]:
                break
            with RankingClient(app.grpc_target) as client:
                client.rank(RankingRequest(request.user_id, [3]))
            time.sleep(0.05)
        cache = found["muse_user_cache"]
    names = {name for labels in cache for name in labels if name != server}
    assert names == set(CACHE_STATISTICS)
    value = {
        name: cache[tuple(sorted((server, name)))] for name in CACHE_STATISTICS
    }
    assert value["capacity"] == 256 and value["max_length"] == 4096
    assert 0 < value["occupied"] <= 256 and value["bytes"] > 0
    assert value["hits"] >= 3 and value["prefetches"] >= 3
    assert first["muse_ranking_requests_total"][("cached", "request")] == 3
    assert first["muse_ranking_requests_total"][("no_history", "request")] == 1
    assert first["muse_ranking_latency_seconds_count"][("cached",)] == 3
    buckets = first["muse_ranking_latency_seconds_bucket"]
    assert buckets[("+Inf", "cached")] == 3
    stages = first["muse_ranking_stage_seconds_count"]
    assert stages[("ok", "rank_cached")] == 3
    assert stages[("ok", "prefetch")] == 3
    assert stages[("miss", "store_read")] == 1
    assert first["muse_ranking_cache_lookups_total"][("hit",)] == 3
    assert first["muse_ranking_target_up"][(server,)] == 1
    for name in ("in_flight", "queued", "background_prefetches"):
        assert first[f"muse_ranking_{name}"] == {(): 0}


def test_the_dashboard_and_the_alarms_use_what_is_exported(service) -> None:
    url = service.rest_url + "/metrics"
    with urllib.request.urlopen(url, timeout=20) as found:
        exported = monitored.exported(found.read().decode())
    names = monitored.used("muse_")
    assert len(names) > 12
    assert names <= exported
