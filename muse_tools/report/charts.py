"""Charts as inline SVG that takes its colours from the page's theme."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

__all__ = ["bars", "calibration", "intervals", "lines", "ticks"]

_WIDTH = 440
_LEFT = 56
_RIGHT = 16
_TOP = 30
_BOTTOM = 44
_LEGEND_LINE = 20


class _Frame:
    """Axes and the mapping from values to places."""

    def __init__(
        self,
        title: str,
        low: float,
        high: float,
        height: int,
        legend: Sequence[str],
        colors: Sequence[int] = (),
    ) -> None:
        self._low, self._high = low, high
        self.left, self.right = _LEFT, _WIDTH - _RIGHT
        places = self._legend_places(legend)
        lines = 1 + max((line for _, line in places), default=0)
        height += (lines - 1) * _LEGEND_LINE
        self.height = height
        self.top = _TOP + (lines - 1) * _LEGEND_LINE
        self.bottom = height - _BOTTOM
        self.parts = [
            f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" '
            f'aria-label="{html.escape(title, quote=True)}">'
        ]
        for value in ticks(low, high):
            place = self.y(value)
            self.parts.append(
                f'<line class="grid" x1="{self.left}" x2="{self.right}" '
                f'y1="{place:.1f}" y2="{place:.1f}"/>'
            )
            self.text(self.left - 8, place + 4, f"{value:g}", "end")
        self.colors = colors or range(len(legend))
        for color, name, (x, line) in zip(
            self.colors, legend, places, strict=True
        ):
            y = 8 + line * _LEGEND_LINE
            self.parts.append(
                f'<rect class="fill{color}" x="{x}" y="{y}" width="12" '
                'height="12" rx="2"/>'
            )
            self.text(x + 18, y + 11, name, "start")

    def _legend_places(self, legend: Sequence[str]) -> list[tuple[int, int]]:
        """Returns the horizontal place and the line of each name."""
        places = []
        x, line = self.left, 0
        for name in legend:
            width = 34 + 9 * len(name)
            if x > self.left and x + width > self.right:
                x, line = self.left, line + 1
            places.append((x, line))
            x += width
        return places

    def y(self, value: float) -> float:
        """Returns the vertical place of a value."""
        share = (value - self._low) / (self._high - self._low)
        return self.bottom - share * (self.bottom - self.top)

    def text(self, x: float, y: float, text: str, anchor: str) -> None:
        """Adds a label."""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
            f"{html.escape(text)}</text>"
        )

    def axis_title(self, text: str) -> None:
        """Adds the name of the horizontal axis."""
        self.text((self.left + self.right) / 2, self.height - 6, text, "middle")

    def done(self) -> str:
        """Returns the SVG."""
        return "".join([*self.parts, "</svg>"])


def intervals(
    title: str,
    axis: str,
    groups: Sequence[str],
    series: Mapping[str, Sequence[tuple[float, float, float] | None]],
    zero: bool = False,
    colors: Sequence[int] = (),
) -> str:
    """Draws values with intervals, side by side in groups.

    Args:
        title: for those who cannot see it.
        axis: name of the groups.
        groups: names along the horizontal axis.
        series: ``(value, lower, upper)`` per group, by series.
        zero: the axis holds 0 and shows it by a line.
        colors: number of each series' colour; empty: in their order.
    """
    everything = [v for values in series.values() for v in values if v]
    low = min([v[1] for v in everything] + [0.0] * zero)
    high = max([v[2] for v in everything] + [0.0] * zero)
    margin = 0.08 * (high - low or 0.1)
    frame = _Frame(
        title, low - margin, high + margin, 300, list(series), colors
    )
    if zero:
        frame.parts.append(
            f'<line class="zero" x1="{frame.left}" x2="{frame.right}" '
            f'y1="{frame.y(0):.1f}" y2="{frame.y(0):.1f}"/>'
        )
    room = (frame.right - frame.left) / len(groups)
    apart = min(22.0, 0.8 * room / len(series))
    for group, name in enumerate(groups):
        middle = frame.left + room * (group + 0.5)
        frame.text(middle, frame.bottom + 18, name, "middle")
        for index, values in enumerate(series.values()):
            value, color = values[group], frame.colors[index]
            if value is None:
                continue
            x = middle + apart * (index - (len(series) - 1) / 2)
            top, bottom = frame.y(value[2]), frame.y(value[1])
            frame.parts.append(
                f'<g class="line{color}"><line x1="{x:.1f}" x2="{x:.1f}" '
                f'y1="{top:.1f}" y2="{bottom:.1f}"/>'
                f'<circle class="fill{color}" cx="{x:.1f}" '
                f'cy="{frame.y(value[0]):.1f}" r="5">'
                f"<title>{value[0]:.4f} ({value[1]:.4f} to {value[2]:.4f})"
                "</title></circle></g>"
            )
    frame.axis_title(axis)
    return frame.done()


def lines(
    title: str,
    axis: str,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    bands: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    colors: Sequence[int] = (),
) -> str:
    """Draws curves over a common horizontal axis that holds 0.

    Args:
        title: for those who cannot see it.
        axis: name of the horizontal axis.
        series: x and y values, by series.
        bands: ``(lower, upper)`` at each x, by series. A series that has one
            is also drawn with its points, and these tell their numbers.
        colors: number of each series' colour; empty: in their order.
    """
    bands = bands or {}
    ys = [y for _, values in series.values() for y in values]
    ys += [end for band in bands.values() for ends in band for end in ends]
    places = [x for values, _ in series.values() for x in values]
    first, last = min(0.0, *places), max(places)
    margin = 0.05 * (max(ys) - min(ys) or 0.1)
    frame = _Frame(
        title, min(ys) - margin, max(ys) + margin, 300, list(series), colors
    )
    scale = (frame.right - frame.left) / (last - first or 1.0)

    def place(x: float, y: float) -> str:
        return f"{frame.left + scale * (x - first):.1f},{frame.y(y):.1f}"

    for color, (name, (xs, _)) in zip(
        frame.colors, series.items(), strict=True
    ):
        if name in bands:
            lower, upper = zip(*bands[name], strict=True)
            around = [
                *map(place, xs, lower),
                *map(place, xs[::-1], upper[::-1]),
            ]
            frame.parts.append(
                f'<polygon class="fill{color}" fill-opacity="0.15" '
                f'points="{" ".join(around)}"/>'
            )
    for color, (name, (xs, values)) in zip(
        frame.colors, series.items(), strict=True
    ):
        points = [place(x, y) for x, y in zip(xs, values, strict=True)]
        frame.parts.append(
            f'<polyline class="line{color}" fill="none" '
            f'points="{" ".join(points)}"/>'
        )
        for x, y, (low, high) in zip(
            xs, values, bands.get(name, ()), strict=False
        ):
            cx, cy = place(x, y).split(",")
            frame.parts.append(
                f'<circle class="fill{color}" cx="{cx}" cy="{cy}" r="4">'
                f"<title>{html.escape(name)}, {x:g}: {y:.4f} ({low:.4f} to "
                f"{high:.4f})</title></circle>"
            )
    for value in ticks(first, last):
        frame.text(
            frame.left + scale * (value - first),
            frame.bottom + 18,
            f"{value:g}",
            "middle",
        )
    frame.axis_title(axis)
    return frame.done()


def calibration(
    title: str,
    axis: str,
    series: Mapping[str, Sequence[tuple[float, float, float, float]]],
    colors: Sequence[int] = (),
) -> str:
    """Draws observed over predicted rates, with intervals, and their ideal.

    Args:
        title: for those who cannot see it.
        axis: name of the horizontal axis.
        series: ``(predicted, observed, lower, upper)`` per group, by series.
        colors: number of each series' colour; empty: in their order.
    """
    points = [point for values in series.values() for point in values]
    last = 1.03 * max(max(point[0], point[3]) for point in points)
    frame = _Frame(title, 0.0, last, 340, list(series), colors)
    width = frame.right - frame.left
    frame.parts.append(
        f'<line class="grid" stroke-dasharray="6 4" stroke-width="2" '
        f'x1="{frame.left}" y1="{frame.y(0):.1f}" x2="{frame.right}" '
        f'y2="{frame.y(last):.1f}"/>'
    )
    for color, values in zip(frame.colors, series.values(), strict=True):
        for predicted, observed, lower, upper in values:
            x = frame.left + width * predicted / last
            frame.parts.append(
                f'<g class="line{color}"><line x1="{x:.1f}" x2="{x:.1f}" '
                f'y1="{frame.y(upper):.1f}" y2="{frame.y(lower):.1f}"/>'
                f'<circle class="fill{color}" cx="{x:.1f}" '
                f'cy="{frame.y(observed):.1f}" r="4">'
                f"<title>predicted {predicted:.4f}, observed {observed:.4f} "
                f"({lower:.4f} to {upper:.4f})</title></circle></g>"
            )
    for value in ticks(0, last):
        frame.text(
            frame.left + width * value / last,
            frame.bottom + 18,
            f"{value:g}",
            "middle",
        )
    frame.axis_title(axis)
    return frame.done()


def bars(
    title: str,
    axis: str,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    every: int = 1,
    base: float = 0.0,
) -> str:
    """Draws bars side by side in groups, up or down from a base.

    Args:
        title: for those who cannot see it.
        axis: name of the groups.
        groups: names along the horizontal axis.
        series: a value per group, by series.
        every: label every so many groups.
        base: where bars start.
    """
    heights = [value for values in series.values() for value in values]
    low, high = min(base, *heights), max(base, *heights)
    margin = 0.05 * (high - low) or 1.0
    frame = _Frame(
        title,
        low - margin if low < base else base,
        high + margin if high > base or low == base else base,
        300,
        list(series),
    )
    room = (frame.right - frame.left) / len(groups)
    width = 0.8 * room / len(series)
    for group, name in enumerate(groups):
        start = frame.left + room * (group + 0.1)
        if group % every == 0:
            frame.text(start + 0.4 * room, frame.bottom + 18, name, "middle")
        for index, values in enumerate(series.values()):
            ends = sorted((frame.y(values[group]), frame.y(base)))
            frame.parts.append(
                f'<rect class="fill{index}" x="{start + index * width:.1f}" '
                f'y="{ends[0]:.1f}" width="{width:.1f}" '
                f'height="{ends[1] - ends[0]:.1f}">'
                f"<title>{html.escape(name)}: {values[group]:.4g}</title>"
                "</rect>"
            )
    frame.axis_title(axis)
    return frame.done()


def ticks(low: float, high: float, number: int = 7) -> list[float]:
    """Returns about so many round values inside the range."""
    rough = (high - low) / number
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first = math.ceil(low / step)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]
