"""What is kept of the demo's ranking request."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import types

import pytest

from muse_tools.cli import demo
from muse_tools.demo import ranked_request
from serving.client.ranking import Stage
from serving.files import write_json

pytestmark = pytest.mark.tf

SENT = ranked_request.RankedRequest(
    model_version="17",
    user_id=7,
    history_length=677,
    num_candidates=100,
    candidates_from="matching",
    path="cached",
    deadline_ms=300.0,
    total_ms=14.0,
    stages=(
        Stage("store_read", 0.2, 0.6, "ok"),
        Stage("prefetch", 0.8, 6.0, "ok"),
        Stage("matching", 2.0, 5.8, "ok"),
        Stage("rank_cached", 7.8, 6.1, "ok"),
    ),
    requests=15,
    cached=15,
    slowest_ms=16.8,
    top=(
        {"item_id": 3, "name": "Tea", "click_probability": 0.3837},
        {"item_id": 4, "name": "Salt", "click_probability": None},
    ),
)


@pytest.mark.parametrize(
    ("pushed_to", "shown"), [("17", True), ("18", False), (None, False)]
)
def test_the_report_shows_only_a_request_to_the_newest_model(
    tmp_path, pushed_to, shown
):
    from muse_tools.report import collect

    write_json(tmp_path / ranked_request.FILE, dataclasses.asdict(SENT))
    config = types.SimpleNamespace(root=tmp_path)
    run = types.SimpleNamespace(
        pushed_to=pushed_to and pathlib.Path("models") / pushed_to
    )
    found = collect._ranked(config, run)
    sent = json.loads(json.dumps(dataclasses.asdict(SENT)))
    assert found == (sent if shown else None)
    assert collect._ranked(config, None) is None
    nothing = types.SimpleNamespace(root=tmp_path / "nowhere")
    assert collect._ranked(nothing, run) is None


def test_lines_of_the_demo():
    text = "\n".join(demo._ranked_lines(SENT))
    for part in (
        "household 7, 100 candidates found by candidate generation, "
        "deadline 300 ms",
        "path cached, 14.0 ms; of 15 such requests 15 were ranked from the",
        "over 1.0 ms before retrieval",
        "0.384  Tea",
        "–  Salt",
    ):
        assert part in text
    for stage in SENT.stages:
        assert f"{stage.start_ms:.1f} +" in text
    late = dataclasses.replace(
        SENT, candidates_from="popular", path="unranked", stages=()
    )
    text = "\n".join(demo._ranked_lines(late))
    assert "the most popular ones" in text and "prefetch" not in text
