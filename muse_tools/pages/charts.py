"""Charts as inline SVG that takes its size and colors from the page.

Coordinates are percentages, so that a chart is as wide as the page and its
text has the size of the page's text, also on a phone. It does not use
matplotlib, whose charts have a fixed size, their own colors, and ids that
collide on a page.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

import markupsafe

from muse_tools.pages.blocks import Chart, Difference, Forest, Line, Point

MODELS = (
    "DIN",
    "MUSE",
    "SIM-hard",
    "SIM-soft",
    "TWIN",
    "MISS",
    "ETA",
    "SDIM",
)
"""Names of the models, in the order of their colors."""
_LABELS = 6
"""Labels of an axis that fit on a phone; if there are more, every second one
is hidden."""
_LETTERS = 9
"""Letters of such a label."""
_VERDICTS = {
    "above": "its interval is above 0",
    "below": "its interval is below 0",
    "open": "its interval includes 0",
    "none": "no interval",
}


def colors(names: Sequence[str]) -> list[int]:
    """Returns the number of each name's color; models have fixed colors."""
    known = [name.upper() for name in MODELS]
    taken = {known.index(n.upper()) for n in names if n.upper() in known}
    # Other names first get the colors of models that are rarely shown.
    free = [c for c in (6, 7, 5, 4, 3, 2, 1, 0) if c not in taken] or [0]
    found = []
    for name in names:
        if name.upper() in known:
            found.append(known.index(name.upper()))
        else:
            found.append(free[0])
            free = [*free[1:], free[0]]
    return found


def chart(block: Chart) -> markupsafe.Markup:
    """Returns legend and picture of a chart, which must have a point."""
    numbers = colors([line.name for line in block.lines])
    points = [point for line in block.lines for point in line.points]
    ends = [
        end
        for point in points
        for end in (point.y, point.lower, point.upper, block.base)
        if end is not None
    ]
    ends += [0.0, *(p.x for p in points)] if block.diagonal else []
    low, high = min(ends), max(ends)
    margin = 0.06 * (high - low) or 0.1
    low, high = (0.0 if block.diagonal else low - margin), high + margin
    if block.categories:
        first, last = -0.5, len(block.categories) - 0.5
    elif block.diagonal:
        first, last = low, high
    else:
        first = min(0.0, *(point.x for point in points))
        last = max(point.x for point in points)
    frame = _Frame(first, last, low, high)
    parts = [*frame.grid(block)]
    draw = {"curves": _curve, "dots": _dots, "bars": _bars}[block.style]
    for place, (line, color) in enumerate(
        zip(block.lines, numbers, strict=True)
    ):
        parts.append(f'<g class="color{color}">')
        parts += draw(frame, block, line, place)
        parts.append("</g>")
    legend = "".join(
        f'<li><i class="fill color{color}"></i>{html.escape(line.name)}</li>'
        for line, color in zip(block.lines, numbers, strict=True)
    )
    return _markup(
        f'<ul class="legend">{legend}</ul>{_svg("chart", block.title)}'
        f"{''.join(parts)}</svg>"
    )


class _Frame:
    """Maps values to percentages of the picture."""

    def __init__(
        self, first: float, last: float, low: float, high: float
    ) -> None:
        self._x, self._y = (first, last - first or 1.0), (low, high - low)
        self.ends = first, last, low, high

    def x(self, value: float) -> float:
        return 100 * (value - self._x[0]) / self._x[1]

    def y(self, value: float) -> float:
        return 100 - 100 * (value - self._y[0]) / self._y[1]

    def grid(self, block: Chart) -> Iterable[str]:
        """Yields the axes with their labels and names."""
        first, last, low, high = self.ends
        for value in ticks(low, high):
            yield _line("grid", 0, self.y(value), 100, self.y(value))
            yield _text("0%", self.y(value), f"{value:g}", "end", -8, 5)
        if block.base is not None:
            base = self.y(block.base)
            yield _line("zero", 0, base, 100, base)
        if block.diagonal:
            yield _line("ideal", *(self.x(low), self.y(low)), 100, 0)
        labels = [(place, f"{place:g}") for place in ticks(first, last)]
        # A long name takes the room of several labels.
        letters = max(map(len, block.categories), default=0)
        room = max(1.0, letters / _LETTERS)
        if block.categories:
            step = math.ceil(room * len(block.categories) / (2 * _LABELS))
            labels = [
                (float(place), name)
                for place, name in enumerate(block.categories)
            ][::step]
        for number, (place, label) in enumerate(labels):
            hidden = room * len(labels) > _LABELS and number % 2
            yield _text(
                f"{self.x(place):.2f}%",
                100,
                label,
                "middle",
                0,
                20,
                "minor" if hidden else "",
            )
        yield _text("50%", 100, block.x, "middle", 0, 42)
        yield _text("0%", 0, block.y, "start", -48, -10)


def _curve(
    frame: _Frame, block: Chart, line: Line, place: int
) -> Iterable[str]:
    """Draws a curve; with intervals, also a band and points."""

    def path(values: Iterable[tuple[float, float]]) -> str:
        return " ".join(f"{frame.x(x):.2f},{frame.y(y):.2f}" for x, y in values)

    # Points of a polyline cannot be percentages; this view box scales them.
    yield '<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="none">'
    ends = [
        (p.x, p.lower, p.upper)
        for p in line.points
        if p.lower is not None and p.upper is not None
    ]
    band = [(x, low) for x, low, _ in ends]
    band += [(x, high) for x, _, high in reversed(ends)]
    if band:
        yield f'<polygon class="band" points="{path(band)}"/>'
    curve = path((p.x, p.y) for p in line.points)
    yield f'<polyline class="stroke" points="{curve}"/></svg>'
    for point in line.points if ends else ():
        yield _dot(
            frame.x(point.x), frame.y(point.y), f"{line.name}, {_words(point)}"
        )


def _dots(frame: _Frame, block: Chart, line: Line, place: int) -> Iterable[str]:
    """Draws dots with intervals; those of a category are side by side."""
    apart = min(3.0, 80 / (len(block.categories) or 1) / len(block.lines))
    shift = apart * (place - (len(block.lines) - 1) / 2)
    for point in line.points:
        x = frame.x(point.x) + (shift if block.categories else 0)
        if point.lower is not None and point.upper is not None:
            yield _line(
                "stroke", x, frame.y(point.lower), x, frame.y(point.upper)
            )
        words = _words(point, block.categories)
        yield _dot(x, frame.y(point.y), f"{line.name}, {words}")


def _bars(frame: _Frame, block: Chart, line: Line, place: int) -> Iterable[str]:
    """Draws bars from the base; those of a category are side by side."""
    room = 80 / len(block.categories)
    width = room / len(block.lines)
    base = frame.y(block.base or 0.0)
    for point in line.points:
        top, bottom = sorted((frame.y(point.y), base))
        yield (
            f'<rect class="fill" '
            f'x="{frame.x(point.x) - room / 2 + place * width:.2f}%" '
            f'y="{top:.2f}%" width="{width:.2f}%" '
            f'height="{bottom - top:.2f}%"><title>{html.escape(line.name)}, '
            f"{html.escape(_words(point, block.categories))}</title></rect>"
        )


def _words(point: Point, categories: Sequence[str] = ()) -> str:
    where = categories[int(point.x)] if categories else f"{point.x:.4g}"
    text = f"{where}: {point.y:.4f}"
    if point.lower is None or point.upper is None:
        return text
    return f"{text} ({point.lower:.4f} to {point.upper:.4f})"


def forest(block: Forest) -> markupsafe.Markup:
    """Returns differences on a common axis; "" if none has a value."""
    ends = [
        end
        for row in block.rows
        if isinstance(row, Difference)
        for end in (row.value, row.lower, row.upper, *row.by_seed)
        if end is not None
    ]
    if not ends:
        return markupsafe.Markup("")
    margin = 0.06 * (max(0.0, *ends) - min(0.0, *ends)) or 0.01
    low, high = min(0.0, *ends) - margin, max(0.0, *ends) + margin
    frame = _Frame(low, high, 0, 1)
    marks = ticks(low, high, 6)
    parts = ['<ul class="forest">']
    for row in block.rows:
        if isinstance(row, str):
            parts.append(f'<li class="over">{html.escape(row)}</li>')
            continue
        parts.append(
            f'<li><span class="name">{html.escape(row.name)}</span>'
            f"{''.join(_range(row, frame, marks))}"
            f'<span class="numbers">{html.escape(row.numbers)}</span></li>'
        )
    parts.append(
        '<li class="axis"><span class="name">difference of GAUC</span>'
        + _svg("", "axis: difference of GAUC")
    )
    for mark in marks:
        x = frame.x(mark)
        # Labels at the ends must stay inside a narrow page.
        anchor = "start" if x < 5 else "end" if x > 95 else "middle"
        parts.append(_text(f"{x:.2f}%", 50, f"{mark:+g}", anchor, 0, 5))
    return _markup("".join([*parts, "</svg></li></ul>"]))


def _range(
    row: Difference, frame: _Frame, marks: Sequence[float]
) -> Iterable[str]:
    yield _svg(row.verdict, _VERDICTS[row.verdict])
    for mark in marks:
        x = frame.x(mark)
        yield _line("grid" if mark else "zero", x, 0, x, 100)
    if row.lower is not None and row.upper is not None:
        yield _line("range", frame.x(row.lower), 50, frame.x(row.upper), 50)
    for value in row.by_seed if len(row.by_seed) > 1 else ():
        yield _line("seed", frame.x(value), 25, frame.x(value), 75)
    if row.value is not None:
        yield _dot(frame.x(row.value), 50)
    yield "</svg>"


def _svg(style: str, title: str) -> str:
    return (
        f'<svg class="{style}" role="img" '
        f'aria-label="{html.escape(title, quote=True)}">'
    )


def _line(style: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<line class="{style}" x1="{x1:.2f}%" y1="{y1:.2f}%" '
        f'x2="{x2:.2f}%" y2="{y2:.2f}%"/>'
    )


def _dot(x: float, y: float, title: str = "") -> str:
    text = f"<title>{html.escape(title)}</title>" if title else ""
    return (
        f'<circle class="fill" cx="{x:.2f}%" cy="{y:.2f}%" r="5">'
        f"{text}</circle>"
    )


def _text(
    x: str,
    y: float,
    text: str,
    anchor: str,
    dx: float,
    dy: float,
    style: str = "",
) -> str:
    return (
        f'<text class="{style}" x="{x}" y="{y:.2f}%" dx="{dx}" dy="{dy}" '
        f'text-anchor="{anchor}">{html.escape(text)}</text>'
    )


def _markup(text: str) -> markupsafe.Markup:
    # All texts have been escaped.
    return markupsafe.Markup(text)  # noqa: S704


def ticks(low: float, high: float, number: int = 7) -> list[float]:
    """Returns about `number` round values within the range."""
    rough = (high - low) / number
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first = math.ceil(low / step)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]
