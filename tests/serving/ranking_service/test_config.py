"""Settings: what holds where nothing is said, and what is refused."""

from __future__ import annotations

import pydantic
import pytest

from serving.ranking_service import ServiceConfig
from tfx_pipeline.config import MatchingConfig

DEFAULTS = {
    "store": "",
    "targets": ("127.0.0.1:8500",),
    "target_tls": None,
    "calls_per_target": 63,
    "model": "muse",
    "model_base_path": "",
    "item_names": "",
    "label": "",
    "matching_model": "matching",
    "host": "127.0.0.1",
    "port": 8600,
    "rest_port": 8601,
    "ssl_config_file": "",
    "port_file": "",
    "deadline_ms": 300,
    "max_deadline_ms": 10_000,
    "margin_ms": 5,
    "num_candidates": 100,
    "max_candidates": 10_000,
    "history_limit": 100_000,
    "shortened_length": 1_000,
    "matching_length": 1_000,
    "max_concurrent": 32,
    "max_queue": 64,
    "max_queue_ms": 50,
    "max_background": 16,
    "prefetch_timeout_ms": 5_000,
    "store_threads": 4,
    "store_timeout_ms": 1_000,
    "stage_budget_ms": {
        "store_read_newest": 100,
        "matching": 1_000,
        "prefetch": 1_000,
        "rank_cached": 1_000,
        "rank_full": 1_000,
        "rank_shortened": 50,
        "rank_no_history": 50,
    },
    "poll_seconds": 0.5,
    "ready_without_store": False,
    "unranked": "answer",
    "drain_seconds": 10,
    "traces": "",
    "log_requests": True,
}


def test_defaults() -> None:
    assert ServiceConfig().model_dump() == DEFAULTS


def test_retrieval_gets_as_many_behaviors_as_it_was_measured_with() -> None:
    measured = MatchingConfig().max_behaviors
    assert ServiceConfig().matching_length == measured


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("store", "mysql://x", "expected lmdb:/path"),
        ("store", "lmdb:", "expected lmdb:/path"),
        ("targets", (), "at least one"),
        ("targets", ("a:1", "a:1"), "all different"),
        ("targets", ("http://a",), "HOST:PORT"),
        ("targets", ("::1:8500",), r"\[::1\]:8500"),
        ("calls_per_target", 0, "greater than or equal"),
        ("unranked", "silence", "'answer' or 'error'"),
        ("target_tls", {"certificate_file": "x"}, "go together"),
        ("target_tls", {"password": "x"}, "target_tls"),
        ("deadline_ms", 0, "greater than 0"),
        ("port", 70_000, "65535"),
        ("max_queue", -1, "greater than or equal"),
        ("traces", "ftp://x", "OTLP endpoint"),
        ("nonsense", 1, "nonsense"),
        ("stage_budget_ms", {"rank_full": -1}, "rank_full"),
        ("stage_budget_ms", {"rank_no_history": 0}, "greater than 0"),
        ("stage_budget_ms", {"nonsense": 1}, "nonsense"),
    ],
)
def test_wrong_values(field, value, text) -> None:
    with pytest.raises(pydantic.ValidationError, match=text):
        ServiceConfig(**{field: value})
