"""Pictures put their values where they belong."""

from __future__ import annotations

import re

import pytest

from muse_tools.report import charts
from muse_tools.report.forest import Entry, Heading, forest, span
from tests.muse_tools.report.pages import Page


def percents(text):
    return [float(value) for value in re.findall(r"([-\d.]+)%", text)]


def test_forest_places_values_on_one_axis():
    lines = [
        Heading("minus A"),
        Entry("B", 0.02, 0.01, 0.04),
        Entry("C", -0.03, -0.05, -0.02),
        Entry("D", 0.0, -0.01, 0.01, 0.003, (-0.01, 0.01)),
        Entry("E", 0.01),
        Entry("F", None, note="missing"),
    ]
    low, high = span(lines)
    assert low < -0.05 and high > 0.04
    text = forest(lines)
    Page(text)

    def place(value):
        return pytest.approx(100 * (value - low) / (high - low), abs=0.01)

    pictures = re.findall(r'<svg role="img" class="(\w+)".*?</svg>', text)
    assert pictures == ["above", "below", "open", "none", "none"]
    svgs = re.findall(r'<svg role="img" class=.*?</svg>', text)
    for svg, line in zip(svgs, lines[1:], strict=True):
        dots = re.findall(r'<circle cx="([\d.]+)%', svg)
        assert len(dots) == (line.value is not None)
        if dots:
            assert float(dots[0]) == place(line.value)
        ranges = re.findall(r'class="range" x1="([^"]+)" x2="([^"]+)"', svg)
        assert len(ranges) == (line.lower is not None)
        for ends in ranges:
            assert percents(" ".join(ends)) == [
                place(line.lower),
                place(line.upper),
            ]
        (zero,) = re.findall(r'class="zero" x1="([^"]+)"', svg)
        assert percents(zero) == [place(0)]
    assert svgs[2].count('class="seed"') == 2
    # The axis' labels stand at their values.
    axis = text[text.index('class="axis"') :]
    for x, label in re.findall(r'<text x="([\d.]+)%"[^>]*>([^<]+)<', axis):
        assert float(x) == place(float(label))
    assert "+0.0000 [-0.0100, +0.0100] ± 0.0030" in text
    assert ">missing<" in text and ">minus A<" in text


def test_forests_of_zero_and_of_nothing():
    assert forest([]) == forest([Heading("x"), Entry("a", None)]) == ""
    # A value of exactly 0 has an axis, too.
    assert 'cx="50.00%"' in forest([Entry("a", 0.0)])


def points(text):
    return [tuple(map(float, pair.split(","))) for pair in text.split()]


def test_a_band_lies_around_its_curve():
    svg = charts.lines(
        "t",
        "x",
        {"a": ([0, 50, 100], [1.0, 2.0, 1.5]), "b": ([0, 100], [1.0, 1.0])},
        {"a": [(0.5, 1.5), (1.0, 2.5), (1.4, 1.6)]},
        colors=[3, 1],
    )
    curve = points(re.search(r'line3" fill="none" points="([^"]+)', svg)[1])
    band = points(re.search(r'<polygon class="fill3"[^>]*s="([^"]+)', svg)[1])
    lower, upper = band[:3], band[:2:-1]
    for (x, y), low, high in zip(curve, lower, upper, strict=True):
        assert x == low[0] == high[0]
        assert high[1] < y < low[1]  # Down the page is less.
    # One unit is as high everywhere: 1 of the curve, and 1.5 of the band.
    unit = curve[0][1] - curve[1][1]
    assert upper[1][1] - lower[1][1] == pytest.approx(-1.5 * unit, abs=0.2)
    assert svg.count("<circle") == 3 and 'class="line1"' in svg
    assert "a, 50: 2.0000 (1.0000 to 2.5000)" in svg


def test_curves_over_negative_places():
    svg = charts.lines("t", "x", {"a": ([-1, 0, 1], [5.0, 5.0, 5.0])})
    (line,) = re.findall(r'<polyline[^>]*points="([^"]+)', svg)
    (x0, _), (x1, _), (x2, _) = points(line)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.1) and x0 < x1
    assert ">-0.5<" in svg and ">0.5<" in svg


def test_bars_go_up_and_down_from_their_base():
    svg = charts.bars(
        "t", "x", ["a", "b", "c"], {"s": [1.02, 0.99, 1.0]}, base=1.0
    )
    found = re.findall(
        r'<rect class="fill0"[^>]*y="([\d.]+)" width="[\d.]+" '
        r'height="([\d.]+)"><title>',
        svg,
    )
    (up, down, none) = [(float(y), float(height)) for y, height in found]
    assert up[0] + up[1] == pytest.approx(down[0], abs=0.21)
    assert up[1] == pytest.approx(2 * down[1], abs=0.2)
    assert none[1] == 0.0


def test_a_gain_about_zero_shows_zero():
    svg = charts.intervals(
        "t", "x", ["g"], {"s": [(0.3, 0.2, 0.4)]}, zero=True, colors=[4]
    )
    (zero,) = re.findall(r'class="zero"[^>]*y1="([\d.]+)"', svg)
    (dot,) = re.findall(r'class="fill4"[^>]*cy="([\d.]+)"', svg)
    (lower,) = re.findall(r'class="line4"><line[^>]*y2="([\d.]+)"', svg)
    # Its lower end is 0.2 above 0, its value 0.3.
    share = (float(zero) - float(lower)) / (float(zero) - float(dot))
    assert share == pytest.approx(2 / 3, abs=0.01)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.6012, 0.7345), (-0.03, 0.1), (0, 48_000)]
)
def test_ticks_are_round_and_neither_few_nor_many(low, high):
    found = charts.ticks(low, high)
    assert 3 <= len(found) <= 9
    assert all(low <= tick <= high for tick in found)
    step = found[1] - found[0]
    assert f"{step:.0e}"[0] in "125"
