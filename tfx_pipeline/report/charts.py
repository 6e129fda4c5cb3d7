"""Charts as inline SVG that takes its colours from the page's style.

Every chart is 360 units wide: on a phone one unit is one pixel, so text stays
readable, and on a wide screen the charts stand side by side. Series differ in
shape as well as in colour.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from tfx_pipeline.report.contents import Interval, TierHistogram

__all__ = ["interval_chart", "loss_chart", "tier_chart"]

_WIDTH = 360
_LABELS = 84
_ROW = 20


def interval_chart(
    key: str,
    title: str,
    rows: Sequence[tuple[str, Mapping[str, Interval | None]]],
    zero_line: bool = False,
) -> str:
    """Dots with intervals, one group of rows per label.

    Args:
        key: unique id on the page.
        title: text alternative, first line.
        rows: label and interval by series.
        zero_line: whether to mark zero and include it.

    Returns:
        An ``<svg>`` element; empty without values.
    """
    shown = [one for _, group in rows for one in group.values() if one]
    if not shown:
        return ""
    low = min(one.low for one in shown)
    high = max(one.high for one in shown)
    if zero_line:
        low, high = min(low, 0.0), max(high, 0.0)
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    right = _WIDTH - 14

    def x(value: float) -> float:
        return _LABELS + (value - low) / (high - low) * (right - _LABELS)

    parts, words = [], []
    top = 8.0
    for label, group in rows:
        height = _ROW * max(1, len(group))
        parts.append(_text(_LABELS - 8, top + height / 2 + 4, label, "end"))
        for index, (series, one) in enumerate(group.items()):
            y = top + _ROW * (index + 0.5)
            if one is None:
                continue
            words.append(
                f"{label} {series.upper()}: {one.value:.4f}, "
                f"{one.low:.4f} to {one.high:.4f}"
            )
            parts.append(
                f'<line class="s-{series}" x1="{x(one.low):.1f}" '
                f'x2="{x(one.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            parts.append(_marker(series, x(one.value), y))
        top += height + 10
    axis = [
        f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="4" '
        f'y2="{top:.1f}"/>' + _text(x(t), top + 14, _number(t, ticks), "middle")
        for t in ticks
    ]
    if zero_line:
        axis.append(
            f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="4" '
            f'y2="{top:.1f}"/>'
        )
    return _svg(key, title, "; ".join(words), top + 22, [*axis, *parts])


def loss_chart(
    key: str, title: str, curves: Mapping[str, Sequence[tuple[int, float]]]
) -> str:
    """Smoothed loss over steps.

    Args:
        key: unique id on the page.
        title: text alternative, first line.
        curves: points by series.
    """
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return ""
    losses = [loss for points in curves.values() for _, loss in points]
    # The first steps are far above the rest and would flatten it.
    ceiling = sorted(losses)[int(0.98 * (len(losses) - 1))]
    ticks = _ticks(min(losses), max(ceiling, min(losses) + 1e-6))
    low, high = min(min(losses), ticks[0]), max(ceiling, ticks[-1])
    last = max(points[-1][0] for points in curves.values())
    left, right, top, bottom = 44, _WIDTH - 14, 10, 190

    def place(step: int, loss: float) -> str:
        x = left + step / last * (right - left)
        y = bottom - (min(loss, high) - low) / (high - low) * (bottom - top)
        return f"{x:.1f},{y:.1f}"

    parts = []
    for tick in ticks:
        y = bottom - (tick - low) / (high - low) * (bottom - top)
        parts.append(
            f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" '
            f'y2="{y:.1f}"/>'
            + _text(left - 6, y + 4, _number(tick, ticks), "end")
        )
    for step in (0, last // 2, last):
        x = left + step / last * (right - left)
        anchor = "end" if step == last else "middle"
        parts.append(_text(x, bottom + 16, f"{step:,}", anchor))
    parts.append(_text((left + right) / 2, bottom + 32, "training step"))
    words = []
    for name, points in curves.items():
        path = " ".join(place(step, loss) for step, loss in points)
        parts.append(f'<polyline class="s-{name}" points="{path}"/>')
        words.append(
            f"{name.upper()}: {points[0][1]:.3f} at step {points[0][0]}, "
            f"{points[-1][1]:.3f} at step {points[-1][0]}"
        )
    return _svg(key, title, "; ".join(words), bottom + 40, parts)


def tier_chart(key: str, title: str, tiers: TierHistogram) -> str:
    """Mean tier counts of clicked against other candidates.

    Args:
        key: unique id on the page.
        title: text alternative, first line.
        tiers: the histogram; empty tiers at both ends are left out.
    """
    used = [
        index
        for index in range(len(tiers.clicked))
        if max(tiers.clicked[index], tiers.not_clicked[index]) > 0.005
    ]
    if not used:
        return ""
    shown = range(used[0], used[-1] + 1)
    left, right, top, bottom = 36, _WIDTH - 10, 10, 190
    peak = max(max(tiers.clicked), max(tiers.not_clicked))
    ticks = _ticks(0, peak)
    high = max(peak, ticks[-1])
    step = (right - left) / len(shown)
    parts, words = [], []
    for tick in ticks:
        y = bottom - tick / high * (bottom - top)
        parts.append(
            f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" '
            f'y2="{y:.1f}"/>'
            + _text(left - 6, y + 4, _number(tick, ticks), "end")
        )
    for place, index in enumerate(shown):
        for offset, name, values in (
            (0.08, "clicked", tiers.clicked),
            (0.5, "other", tiers.not_clicked),
        ):
            height = values[index] / high * (bottom - top)
            parts.append(
                f'<rect class="f-{name}" '
                f'x="{left + (place + offset) * step:.1f}" '
                f'y="{bottom - height:.1f}" width="{0.42 * step:.1f}" '
                f'height="{height:.1f}"/>'
            )
        words.append(
            f"{tiers.edges[index]:.1f} to {tiers.edges[index + 1]:.1f}: "
            f"clicked {tiers.clicked[index]:.2f}, "
            f"not clicked {tiers.not_clicked[index]:.2f}"
        )
    every = max(1, math.ceil((len(shown) + 1) / 9))
    for place in range(0, len(shown) + 1, every):
        edge = tiers.edges[shown[0] + place]
        parts.append(_text(left + place * step, bottom + 16, f"{edge:.1f}"))
    parts.append(
        _text((left + right) / 2, bottom + 32, "cosine with the candidate")
    )
    return _svg(key, title, "; ".join(words), bottom + 40, parts)


def _marker(series: str, x: float, y: float) -> str:
    if series == "din":
        return (
            f'<rect class="f-din" x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" '
            'width="9" height="9"/>'
        )
    return f'<circle class="f-{series}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'


def _text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{html.escape(words)}</text>"
    )


def _svg(
    key: str, title: str, words: str, height: float, parts: Sequence[str]
) -> str:
    return (
        f'<svg role="img" aria-labelledby="{key}-t {key}-d" '
        f'viewBox="0 0 {_WIDTH} {height:.0f}">'
        f'<title id="{key}-t">{html.escape(title)}</title>'
        f'<desc id="{key}-d">{html.escape(words)}</desc>'
        + "".join(parts)
        + "</svg>"
    )


def _ticks(low: float, high: float) -> list[float]:
    """Returns two to six round values that cover most of a range."""
    span = max(high - low, 1e-9)
    size = 10 ** math.floor(math.log10(span / 4))
    step = next(
        size * factor
        for factor in (1, 2, 5, 10, 20)
        if span / size / factor <= 5
    )
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(index * step, 10) for index in range(first, last + 1)]


def _number(value: float, ticks: Sequence[float]) -> str:
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
