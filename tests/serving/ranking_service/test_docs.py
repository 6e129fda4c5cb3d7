"""The example of docs/ranking-service.md runs; its picture is there."""

from __future__ import annotations

import json
import pathlib
import re
import xml.etree.ElementTree as ElementTree

from serving.client.ranking import RankingClient, RankingRequest
from serving.ranking_service import ServiceConfig
from tests.serving import toy_matching

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "ranking-service.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
NEW_USER = 424242


def test_example_of_the_page(site, service, capsys) -> None:
    request = site.request(10)
    (code,) = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    for written, ours in (
        ("127.0.0.1:8600", service.grpc_target),
        ("user_id=7", f"user_id={request.user_id}"),
        ("append_events(7", f"append_events({NEW_USER}"),
    ):
        assert written in code
        code = code.replace(written, ours)
    names: dict = {}
    exec(compile(code, "ranking-service.md", "exec"), names)  # noqa: S102
    result = names["result"]
    items, _ = toy_matching.expected(request.behavior_item_ids)
    assert result.candidate_item_ids.tolist() == items
    best = result.candidate_item_ids[result.order()]
    assert capsys.readouterr().out == f"{result.path} {best}\n"
    with RankingClient(service.grpc_target) as client:
        answer = client.rank(RankingRequest(NEW_USER, [3]))
    assert answer.history_length == 1


def test_the_picture_shows_a_prefetch_that_ends_before_retrieval() -> None:
    text = PAGE.read_text(encoding="utf-8")
    (file,) = re.findall(r"\]\((images/\S+\.svg)\)", text)
    root = ElementTree.parse(PAGE.parent / file).getroot()
    words = [
        element.text or ""
        for element in root.iter()
        if element.tag.endswith("text")
    ]
    measured = {}
    for name, said in zip(words, words[1:], strict=False):
        found = re.fullmatch(r"at ([\d.]+) ms, took ([\d.]+) ms", said)
        if found:
            start, took = map(float, found.groups())
            measured[name] = (start, start + took)
    assert measured["prefetch"][1] <= measured["matching"][1]
    assert measured["rank_cached"][0] >= measured["matching"][1] - 0.1


def test_the_page_has_every_setting_with_its_default() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S.*?) \|", text, re.M))
    defaults = ServiceConfig().model_dump(mode="json")
    budgets = defaults.pop("stage_budget_ms")
    assert "stage_budget_ms" in rows
    for name, value in defaults.items():
        assert json.loads(rows[name].strip("`")) == value, name
    for name, value in budgets.items():
        assert float(rows[name]) == value, name
