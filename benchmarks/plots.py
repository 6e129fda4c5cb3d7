"""Plots of measurements as SVG, with logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

COLORS = ("#c05a3c", "#8b5fb0", "#a88400", "#3a8ca6")
_LETTER = 6.6
"""Width of a letter."""


class Curve(NamedTuple):
    """Points of one thing that is measured, and how they are drawn."""

    points: Sequence[tuple[float, float]]
    color: str
    dash: str = ""


def picture(
    label: str,
    panels: Mapping[str, Sequence[Curve]],
    legend: Sequence[str],
    note: str = "",
) -> str:
    """Return an SVG of two panels by their titles.

    Texts of the legend have the colors of `COLORS` in their order.
    """
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 740 300" '
        f'role="img" aria-label="{label}" '
        'font-family="system-ui, sans-serif" font-size="13" fill="#414c59">'
        '<rect width="740" height="300" fill="#ffffff"/>'
    ]
    for left, (title, curves) in zip((60, 420), panels.items(), strict=True):
        parts += _panel(left, title, curves)
    left = 16.0
    colored = [*zip(legend, COLORS, strict=False), (note, "#414c59")]
    for text, color in colored:
        parts.append(
            f'<text x="{left:.0f}" y="288" fill="{color}">{text}</text>'
        )
        left += _LETTER * len(text) + 18
    return "".join([*parts, "</svg>\n"])


def _panel(left: int, title: str, curves: Sequence[Curve]) -> Iterator[str]:
    values = [max(1.0, y) for curve in curves for _, y in curve.points]
    bottom = math.floor(math.log10(min(values)))
    top = max(bottom + 1, math.ceil(math.log10(max(values))))
    sizes = sorted({x for curve in curves for x, _ in curve.points})
    span = math.log10(sizes[-1] / sizes[0]) or 1.0

    def at(size: float, value: float) -> tuple[float, float]:
        up = (math.log10(max(1.0, value)) - bottom) / (top - bottom)
        return left + 270 * math.log10(size / sizes[0]) / span, 240 - 190 * up

    yield f'<text x="{left - 40}" y="24">{title}</text>'
    for power in range(bottom, top + 1):
        _, y = at(sizes[0], 10.0**power)
        yield (
            f'<line x1="{left}" x2="{left + 270}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="#d8dee6"/><text x="{left - 6}" y="{y + 4:.1f}" '
            f'text-anchor="end">{10**power:,}</text>'
        )
    for size in sizes:
        x, _ = at(size, 1.0)
        yield f'<text x="{x:.1f}" y="260" text-anchor="middle">{size:,}</text>'
    for curve in curves:
        places = [at(*point) for point in curve.points]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        yield (
            f'<polyline points="{points}" fill="none" stroke="{curve.color}" '
            f'stroke-width="2" stroke-dasharray="{curve.dash}"/>'
        )
        yield from (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{curve.color}"/>'
            for x, y in places
        )
