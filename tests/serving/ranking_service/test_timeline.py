"""The drawn stages stand where they were measured."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from serving.client.ranking import RankingResult, Stage
from serving.ranking_service import timeline

STAGES = (
    Stage("store_read", 0.0, 10.0, "ok"),
    Stage("prefetch", 10.0, 30.0, "ok"),
    Stage("matching", 5.0, 45.0, "ok"),
    Stage("rank_cached", 50.0, 0.0, "skipped"),
    Stage("rank_full", 50.0, 50.0, "timeout"),
)
TOTAL = 100.0


def bars(svg: str) -> list[tuple[str, float, float, float]]:
    """Class, left, right and top of every bar."""
    found = []
    for element in ElementTree.fromstring(svg).iter():
        kind = element.get("class", "")
        if element.tag.endswith("rect") and kind.startswith("fill"):
            x, y, width = (
                float(element.get(name, "nan")) for name in ("x", "y", "width")
            )
            found.append((kind, x, x + width, y))
    return found


def texts(svg: str) -> list[str]:
    return [
        element.text or ""
        for element in ElementTree.fromstring(svg).iter()
        if element.tag.endswith("text")
    ]


@pytest.mark.parametrize("standalone", [False, True])
def test_bars_are_proportional_to_time(standalone):
    svg = timeline.as_svg(STAGES, TOTAL, standalone=standalone)
    found = bars(svg)
    shown = [stage for stage in STAGES if stage.outcome != "skipped"]
    assert len(found) == len(shown)
    left = found[0][1]
    scale = (found[-1][2] - left) / TOTAL
    for (_, start, end, _), stage in zip(found, shown, strict=True):
        assert start == pytest.approx(left + scale * stage.start_ms, abs=0.1)
        assert end - start == pytest.approx(scale * stage.duration_ms, abs=0.11)
    tops = [top for *_, top in found]
    assert tops == sorted(set(tops))
    kinds = [kind for kind, *_ in found]
    assert len(set(kinds)) == 4  # Each kind of stage in its own color.
    words = texts(svg)
    for stage in STAGES:
        assert stage.name in words
    assert "at 50.0 ms, took 50.0 ms: timeout" in words
    assert "skipped" in words


def test_nothing_is_drawn_outside_of_the_picture():
    late = (Stage("prefetch", 90.0, 400.0, "running"),)
    svg = timeline.as_svg(late, TOTAL)
    ((_, start, end, _),) = bars(svg)
    width = float(ElementTree.fromstring(svg).get("viewBox", "").split()[2])
    assert 0 < start < end < width


@pytest.mark.parametrize("total", [0.0, 0.02, 3.7, 14.0, 999.0, 12345.6])
def test_the_axis_has_a_few_round_values(total):
    svg = timeline.as_svg(STAGES[:1], total)
    numbers = [float(t) for t in texts(svg) if re.fullmatch(r"[\d.e+-]+", t)]
    assert numbers[0] == 0
    if total > 1:
        assert 4 <= len(numbers) <= 9
        assert max(numbers) <= total


def test_a_file_brings_its_colors_and_a_page_keeps_its_own():
    alone = timeline.as_svg(STAGES, TOTAL, standalone=True)
    assert "prefers-color-scheme:dark" in alone
    assert 'xmlns="http://www.w3.org/2000/svg"' in alone
    inline = timeline.as_svg(STAGES, TOTAL, title='a "b" <c>')
    assert "<style" not in inline and "http" not in inline
    root = ElementTree.fromstring(inline)
    assert (root.get("role"), root.get("aria-label")) == ("img", 'a "b" <c>')


def test_lines_for_a_terminal():
    lines = timeline.as_text(STAGES, TOTAL, width=20)
    assert [line.split()[0] for line in lines] == [s.name for s in STAGES]
    begins = [line.find("█") for line in lines]
    assert begins[1] - begins[0] == 2 and begins[2] - begins[0] == 1
    assert begins[3] == -1
    assert [line.count("█") for line in lines] == [2, 6, 9, 0, 10]
    assert [line.split()[-1] for line in lines] == [s.outcome for s in STAGES]
    assert len({line.rfind(" ms") for line in lines}) == 1


@pytest.mark.parametrize(
    ("prefetch", "expected"),
    [
        (Stage("prefetch", 10, 30, "ok"), "over 10.0 ms before retrieval"),
        (Stage("prefetch", 10, 47, "ok"), "waited for 7.0 ms"),
        (Stage("prefetch", 10, 30, "timeout"), ""),
    ],
)
def test_overlap_is_said_as_measured(prefetch, expected):
    said = timeline.overlap([prefetch, STAGES[2]])
    assert expected in said
    assert bool(said) == bool(expected)


def test_the_median_is_one_of_the_answers():
    answers = [
        RankingResult([1], [0.5], "cached", total_ms=total)
        for total in (9.0, 1.0, 5.0, 100.0, 4.0)
    ]
    assert timeline.median(answers) is answers[2]
