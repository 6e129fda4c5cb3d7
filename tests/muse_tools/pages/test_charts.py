"""Charts put their values where they belong."""

from __future__ import annotations

import re

import pytest

from muse_tools.pages import charts
from muse_tools.pages.blocks import Chart, Difference, Forest, Line, Point
from tests.muse_tools.pages.page import Page


def percents(text):
    return [float(value) for value in re.findall(r"([-\d.]+)%", text)]


def chart(*lines, **values):
    text = charts.chart(Chart("t", "the x", "the y", lines, **values))
    Page(text)
    return text


def axis(text):
    """Height in percent and value of the vertical axis' labels."""
    return [
        (float(height), float(label))
        for height, label in re.findall(
            r'x="0%" y="([-\d.]+)%"[^>]*anchor="end">([^<]+)<', text
        )
    ]


def height_of(text):
    """Returns the function from values to heights that the labels state."""
    (one, low), *_, (other, high) = axis(text)
    return lambda value: pytest.approx(
        one + (other - one) * (value - low) / (high - low), abs=0.02
    )


def points(text):
    return [tuple(map(float, pair.split(","))) for pair in text.split()]


def test_forest_places_values_on_one_axis():
    rows = [
        "minus A",
        Difference("B", 0.02, 0.01, 0.04),
        Difference("C", -0.03, -0.05, -0.02),
        Difference("D", 0.0, -0.01, 0.01, 0.003, (-0.01, 0.01)),
        Difference("E", 0.01),
        Difference("F", note="missing"),
    ]
    text = charts.forest(Forest(rows))
    Page(text)
    # The labels of the axis say where a value is.
    labels = re.findall(r'<text class="" x="([\d.]+)%"[^>]*>([^<]+)<', text)
    (one, low), *_, (other, high) = [(float(x), float(v)) for x, v in labels]
    assert low < 0 < high

    def place(value):
        share = (value - low) / (high - low)
        return pytest.approx(one + (other - one) * share, abs=0.02)

    assert all(float(x) == place(float(label)) for x, label in labels)
    found = re.findall(r'<svg class="(\w+)" role="img".*?</svg>', text)
    assert found == ["above", "below", "open", "none", "none"]
    svgs = re.findall(r'<svg class="\w+" role="img".*?</svg>', text)
    for svg, row in zip(svgs, rows[1:], strict=True):
        dots = re.findall(r'<circle[^>]* cx="([\d.]+)%', svg)
        assert len(dots) == (row.value is not None)
        if dots:
            assert float(dots[0]) == place(row.value)
        ranges = re.findall(r'"range" x1="([^"]+)"[^>]*x2="([^"]+)"', svg)
        assert len(ranges) == (row.lower is not None)
        for ends in ranges:
            assert percents(" ".join(ends)) == [
                place(row.lower),
                place(row.upper),
            ]
        (zero,) = re.findall(r'class="zero" x1="([^"]+)"', svg)
        assert percents(zero) == [place(0)]
    assert svgs[2].count('class="seed"') == 2
    assert "+0.0000 [-0.0100, +0.0100] ± 0.0030" in text
    assert ">missing<" in text and ">minus A<" in text


def test_forests_of_zero_and_of_nothing():
    assert charts.forest(Forest([])) == ""
    assert charts.forest(Forest(["x", Difference("a")])) == ""
    # A value of exactly 0 has an axis, too.
    assert 'cx="50.00%"' in charts.forest(Forest([Difference("a", 0.0)]))


def test_a_band_lies_around_its_curve():
    text = chart(
        Line(
            "MUSE",
            [
                Point(0, 1.0, 0.5, 1.5),
                Point(50, 2.0, 1.0, 2.5),
                Point(100, 1.5, 1.4, 1.6),
            ],
        ),
        Line("DIN", [Point(0, 1.0), Point(100, 1.0)]),
    )
    height = height_of(text)
    # A model has its own color, whatever its place.
    muse = text[text.index('<g class="color1">') :]
    curve = points(re.search(r'"stroke" points="([^"]+)', muse)[1])
    band = points(re.search(r'"band" points="([^"]+)', muse)[1])
    assert [x for x, _ in curve] == [0, 50, 100]
    assert [y for _, y in curve] == [height(v) for v in (1.0, 2.0, 1.5)]
    assert [y for _, y in band[:3]] == [height(v) for v in (0.5, 1.0, 1.4)]
    assert [y for _, y in band[:2:-1]] == [height(v) for v in (1.5, 2.5, 1.6)]
    assert text.count("<circle") == 3 and '<g class="color0">' in text
    assert "MUSE, 50: 2.0000 (1.0000 to 2.5000)" in text
    assert ">the x<" in text and ">the y<" in text


def test_curves_over_negative_places():
    text = chart(Line("a", [Point(-1, 5.0), Point(0, 5.0), Point(1, 5.0)]))
    (line,) = re.findall(r'"stroke" points="([^"]+)', text)
    assert [x for x, _ in points(line)] == [0, 50, 100]
    assert ">-0.5<" in text and ">0.5<" in text


def test_bars_go_up_and_down_from_their_base():
    values = [1.02, 0.99, 1.0]
    text = chart(
        Line("s", [Point(place, value) for place, value in enumerate(values)]),
        style="bars",
        categories=["a", "b", "c"],
        base=1.0,
    )
    height = height_of(text)
    found = [
        (float(y), float(y) + float(high))
        for y, high in re.findall(
            r'<rect class="fill" [^>]*y="([\d.]+)%" [^>]*height="([\d.]+)%"',
            text,
        )
    ]
    assert found == [
        (height(1.02), height(1.0)),
        (height(1.0), height(0.99)),
        (height(1.0), height(1.0)),
    ]
    (zero,) = re.findall(r'class="zero"[^>]*y1="([\d.]+)%', text)
    assert float(zero) == height(1.0)


def test_dots_of_a_category_stand_side_by_side():
    text = chart(
        Line("A", [Point(0, 0.3, 0.2, 0.4), Point(1, 0.5)]),
        Line("B", [Point(0, 0.3)]),
        style="dots",
        categories=["g", "h"],
        base=0.0,
    )
    height = height_of(text)
    places = re.findall(r'cx="([\d.]+)%" cy="([\d.]+)%"', text)
    (a, y), (h, _), (b, _) = [(float(x), float(y)) for x, y in places]
    assert a < b and (a + b) / 2 == pytest.approx(25) and 70 < h < 75
    assert y == height(0.3)
    ends = re.findall(
        r'"stroke" x1="[^"]*" y1="([\d.]+)%"[^>]*y2="([^%]+)', text
    )
    assert [tuple(map(float, one)) for one in ends] == [
        (height(0.2), height(0.4))
    ]
    assert "A, g: 0.3000 (0.2000 to 0.4000)" in text


def test_a_right_prediction_lies_on_the_dashed_line():
    text = chart(
        Line("A", [Point(0.1, 0.1, 0.05, 0.2), Point(0.3, 0.3, 0.2, 0.4)]),
        style="dots",
        diagonal=True,
    )
    (ends,) = re.findall(r'<line class="ideal"([^>]+)>', text)
    x1, y1, x2, y2 = percents(ends)
    assert (x1, x2) == (0, 100)
    for x, y in re.findall(r'cx="([\d.]+)%" cy="([\d.]+)%"', text):
        share = (float(x) - x1) / (x2 - x1)
        assert float(y) == pytest.approx(y1 + share * (y2 - y1), abs=0.02)


def test_names_have_colors_of_their_own():
    names = ["noise:1", "MUSE", "text_svd", "din", "random"]
    found = charts.colors(names)
    assert len(set(found)) == len(found)
    assert charts.colors(["MUSE"]) == [found[1]]
    assert charts.colors(["DIN", "MUSE"]) == [found[3], found[1]]


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.6012, 0.7345), (-0.03, 0.1), (0, 48_000)]
)
def test_ticks_are_round_and_neither_few_nor_many(low, high):
    found = charts.ticks(low, high)
    assert 3 <= len(found) <= 9
    assert all(low <= tick <= high for tick in found)
    step = found[1] - found[0]
    assert f"{step:.0e}"[0] in "125"
