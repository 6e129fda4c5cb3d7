"""Forest plots: values with their intervals, one line each, about zero.

Unlike the charts these are lines of text with a picture in each, so that
names and numbers stay readable, and wrap, on a narrow screen.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence

from muse_tools.report.charts import ticks

__all__ = ["Entry", "Heading", "forest", "span"]

_MARGIN = 0.06
_KINDS = {
    "above": "its interval is above 0",
    "below": "its interval is below 0",
    "open": "its interval includes 0",
    "": "no interval",
}


@dataclasses.dataclass(frozen=True)
class Heading:
    """A line above the entries that it holds for.

    Attributes:
        text: what it says.
    """

    text: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line.

    Attributes:
        name: what the value is of.
        value: the difference; None for none.
        lower: lower end of its interval, or None.
        upper: upper end of its interval, or None.
        spread: standard deviation over seeds, or None.
        by_seed: the value of each seed alone; drawn where there are several.
        note: said instead of a number where there is none.
    """

    name: str
    value: float | None
    lower: float | None = None
    upper: float | None = None
    spread: float | None = None
    by_seed: tuple[float, ...] = ()
    note: str = "–"

    @property
    def kind(self) -> str:
        """``above``, ``below``, ``open`` (includes 0) or "" (no interval)."""
        if self.value is None or self.lower is None or self.upper is None:
            return ""
        if self.lower > 0:
            return "above"
        return "below" if self.upper < 0 else "open"

    @property
    def numbers(self) -> str:
        """The value and its interval in words."""
        if self.value is None:
            return self.note
        text = f"{self.value:+.4f}"
        if self.lower is not None and self.upper is not None:
            text += f" [{self.lower:+.4f}, {self.upper:+.4f}]"
        return text if self.spread is None else f"{text} ± {self.spread:.4f}"


def span(lines: Sequence[Heading | Entry]) -> tuple[float, float] | None:
    """Returns the ends of an axis that holds all lines and 0, or None."""
    ends = [
        end
        for line in lines
        if isinstance(line, Entry)
        for end in (line.value, line.lower, line.upper, *line.by_seed)
        if end is not None
    ]
    if not ends:
        return None
    low, high = min(0.0, *ends), max(0.0, *ends)
    margin = _MARGIN * (high - low) or 0.01
    return low - margin, high + margin


def forest(
    lines: Sequence[Heading | Entry],
    axis: str = "difference of GAUC",
) -> str:
    """Draws the lines over one axis.

    Args:
        lines: in the order shown.
        axis: what the values are.

    Returns:
        HTML, escaped; "" if no line has a value.
    """
    ends = span(lines)
    if ends is None or not any(
        isinstance(line, Entry) and line.value is not None for line in lines
    ):
        return ""
    low, high = ends
    marks = ticks(low, high, 6)
    parts = ['<ul class="forest">']
    for line in lines:
        if isinstance(line, Heading):
            parts.append(f'<li class="over">{html.escape(line.text)}</li>')
            continue
        parts.append(
            f'<li><span class="name">{html.escape(line.name)}</span>'
            f"{_picture(line, low, high, marks)}"
            f'<span class="numbers">{html.escape(line.numbers)}</span></li>'
        )
    labels = "".join(
        f'<text x="{_share(mark, low, high)}" y="14" text-anchor="middle">'
        f"{_signed(mark)}</text>"
        for mark in marks
    )
    axis = html.escape(axis, quote=True)
    parts.append(
        f'<li class="axis"><span class="name">{axis}</span>'
        f'<svg role="img" aria-label="axis: {axis}">{labels}</svg></li></ul>'
    )
    return "".join(parts)


def _picture(
    entry: Entry, low: float, high: float, marks: Sequence[float]
) -> str:
    """Returns the dot with its interval, as high as the line."""
    parts = [
        f'<svg role="img" class="{entry.kind or "none"}" '
        f'aria-label="{_KINDS[entry.kind]}">'
    ]
    for mark in marks:
        x = _share(mark, low, high)
        kind = "zero" if mark == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{x}" x2="{x}" y2="100%"/>')
    if entry.lower is not None and entry.upper is not None:
        parts.append(
            f'<line class="range" x1="{_share(entry.lower, low, high)}" '
            f'x2="{_share(entry.upper, low, high)}" y1="50%" y2="50%"/>'
        )
    if len(entry.by_seed) > 1:
        for value in entry.by_seed:
            x = _share(value, low, high)
            parts.append(
                f'<line class="seed" x1="{x}" x2="{x}" y1="25%" y2="75%"/>'
            )
    if entry.value is not None:
        parts.append(
            f'<circle cx="{_share(entry.value, low, high)}" cy="50%" r="5"/>'
        )
    return "".join([*parts, "</svg>"])


def _share(value: float, low: float, high: float) -> str:
    """Returns the place of a value on the axis, in percent."""
    return f"{100 * (value - low) / (high - low):.2f}%"


def _signed(value: float) -> str:
    return "0" if value == 0 else f"{value:+g}"
