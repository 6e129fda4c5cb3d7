"""Draws the stages of an answered request, for a terminal and as SVG.

To draw a request of a running service, use:

    python -m serving.ranking_service.timeline 127.0.0.1:8600 USER_ID out.svg

It sends several requests and draws the one with the median total time.
"""

from __future__ import annotations

import argparse
import html
import math
import pathlib
import sys
from collections.abc import Sequence

from serving.client.ranking import (
    RankingClient,
    RankingRequest,
    RankingResult,
    Stage,
)

_WIDTH, _LEFT, _RIGHT = 440, 12, 12
_ROW, _BAR, _TOP, _BOTTOM = 44, 14, 6, 44
_CLASSES = {
    "store_read": "fill4",
    "store_read_newest": "fill4",
    "prefetch": "fill5",
    "matching": "fill6",
}
_RANKING = "fill7"
_COLORS = {  # light and dark: text, page, grid, and the four bars
    "": "#414c59 #ffffff #d8dee6 #8b5fb0 #a88400 #b03a63 #3a8ca6",
    "@media (prefers-color-scheme:dark)": (
        "#c5cdd8 #14181e #343c47 #bd97e0 #d9b93b #ee85a8 #6cc3dd"
    ),
}


def as_text(
    stages: Sequence[Stage], total_ms: float, width: int = 32
) -> list[str]:
    """Returns the stages as lines for a terminal."""
    total = max(total_ms, 1e-9)
    longest = max((len(stage.name) for stage in stages), default=0)
    lines = []
    for stage in stages:
        bar = ""
        if stage.outcome != "skipped":
            start = min(width - 1, int(width * stage.start_ms / total))
            length = max(1, round(width * stage.duration_ms / total))
            bar = " " * start + "█" * min(length, width - start)
        lines.append(
            f"{stage.name:<{longest}}  {bar:<{width}}  "
            f"{stage.start_ms:7.1f} +{stage.duration_ms:7.1f} ms  "
            f"{stage.outcome}"
        )
    return lines


def as_svg(
    stages: Sequence[Stage],
    total_ms: float,
    title: str = "Stages of one ranking request",
    standalone: bool = False,
) -> str:
    """Returns the stages as bars over a common time axis.

    A standalone picture contains its colors. Otherwise the page must define
    them for the classes `fill4` to `fill7` and `grid`; the report uses the
    earlier colors for models.
    """
    total = max(total_ms, 1e-9)
    height = _TOP + _ROW * len(stages) + _BOTTOM
    bottom = height - _BOTTOM
    inner = _WIDTH - _LEFT - _RIGHT

    def place(milliseconds: float) -> float:
        return _LEFT + inner * min(1.0, milliseconds / total)

    parts = [_head(height, title, standalone)]
    ticks = [(value, place(value)) for value in _ticks(total)]
    for value, x in ticks:
        parts.append(_text(x, bottom + 18, f"{value:g}", "middle"))
    parts.append(
        _text(_WIDTH / 2, height - 6, "ms after the request came in", "middle")
    )
    for row, stage in enumerate(stages):
        y = _TOP + _ROW * row
        parts += [
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{y + 18}" '
            f'y2="{y + 22 + _BAR}"/>'
            for _, x in ticks
        ]
        parts.append(_text(_LEFT, y + 14, stage.name, "start"))
        parts.append(_text(_WIDTH - _RIGHT, y + 14, _words(stage), "end"))
        if stage.outcome == "skipped":
            continue
        x = place(stage.start_ms)
        end = place(stage.start_ms + stage.duration_ms)
        parts.append(
            f'<rect class="{_CLASSES.get(stage.name, _RANKING)}" '
            f'x="{x:.1f}" y="{y + 20}" width="{max(2.0, end - x):.1f}" '
            f'height="{_BAR}" rx="2"/>'
        )
    return "".join([*parts, "</svg>"]) + ("\n" if standalone else "")


def overlap(stages: Sequence[Stage]) -> str:
    """Returns a sentence on whether the prefetch ended before retrieval."""
    ends = {
        stage.name: stage.start_ms + stage.duration_ms
        for stage in stages
        if stage.outcome == "ok"
    }
    if not {"prefetch", "matching"} <= set(ends):
        return ""
    late = ends["prefetch"] - ends["matching"]
    if late <= 0:
        return (
            f"The prefetch was over {-late:.1f} ms before retrieval, so "
            "no request waited for it."
        )
    return f"The prefetch was waited for {late:.1f} ms after retrieval."


def median(answers: Sequence[RankingResult]) -> RankingResult:
    """Returns the answer with the median total time."""
    ordered = sorted(answers, key=lambda answer: answer.total_ms)
    return ordered[len(ordered) // 2]


def main(argv: Sequence[str] | None = None) -> int:
    """Calls a running service, writes the picture and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.ranking_service.timeline",
        description="Draws the stages of a ranking request.",
    )
    parser.add_argument("target", help="host:port of the ranking service")
    parser.add_argument("user_id", type=int)
    parser.add_argument("out", type=pathlib.Path, help="SVG file to write")
    parser.add_argument("--num-candidates", type=int, default=0)
    parser.add_argument("--deadline-ms", type=float, default=0.0)
    parser.add_argument("--requests", type=int, default=15)
    parser.add_argument("--warm-up", type=int, default=5)
    values = parser.parse_args(argv)
    request = RankingRequest(
        values.user_id,
        num_candidates=values.num_candidates,
        deadline_ms=values.deadline_ms,
    )
    number = values.warm_up + max(1, values.requests)
    with RankingClient(values.target) as client:
        answers = [client.rank(request) for _ in range(number)]
    shown = median(answers[values.warm_up :])
    picture = as_svg(shown.stages, shown.total_ms, standalone=True)
    values.out.write_text(picture, encoding="utf-8")
    sys.stdout.write(
        f"path {shown.path}, {len(shown.candidate_item_ids)} candidates "
        f"({shown.candidates_from}), history of {shown.history_length:,}, "
        f"{shown.total_ms:.1f} ms\n"
    )
    for line in as_text(shown.stages, shown.total_ms):
        sys.stdout.write(f"  {line}\n")
    sys.stdout.write(f"{overlap(shown.stages)}\n")
    return 0


def _head(height: int, title: str, standalone: bool) -> str:
    head = (
        f'viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{html.escape(title, quote=True)}"'
    )
    if not standalone:
        return f'<svg style="max-width:30rem" {head}>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {head} '
        'font-family="system-ui, sans-serif" font-size="14">'
        f"<style>{_style()}</style>"
        f'<rect class="page" width="{_WIDTH}" height="{height}"/>'
    )


def _style() -> str:
    parts = []
    for media, colors in _COLORS.items():
        text, page, grid, *bars = colors.split()
        rules = f"text{{fill:{text}}}.page{{fill:{page}}}.grid{{stroke:{grid}}}"
        rules += "".join(f".fill{i}{{fill:{c}}}" for i, c in enumerate(bars, 4))
        parts.append(f"{media}{{{rules}}}" if media else rules)
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{html.escape(text)}</text>"
    )


def _words(stage: Stage) -> str:
    if stage.outcome == "skipped":
        return "skipped"
    words = f"at {stage.start_ms:.1f} ms, took {stage.duration_ms:.1f} ms"
    return words if stage.outcome == "ok" else f"{words}: {stage.outcome}"


def _ticks(total: float) -> list[float]:
    """Returns four to eight round values from 0 to the total."""
    rough = total / 8
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [round(n * step, 10) for n in range(math.floor(total / step) + 1)]


if __name__ == "__main__":
    raise SystemExit(main())
