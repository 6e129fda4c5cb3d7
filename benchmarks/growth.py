"""Memory and CPU time of components against the size of their data.

Each step runs in a fresh process at every size: RequestExampleGen joins raw
tables of synthetic users, ItemTableGen those of random items, ItemEmbedder
embeds their content with a small tower, and the Evaluator computes all metrics
of a model in four slices. All run on Beam's direct runner in one process. A
line has the CPU seconds, the size of the data (what a process that held all of
it would need), and the memory of the process before the step and at its peak,
without pages of mapped files.

    python -m benchmarks.growth [--quick] [--sizes N …] [--steps NAME …]
        [--chart OUT.svg] [--from LINES.jsonl]

`--chart` draws the lines; with `--from`, those of an earlier run.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import harness
from benchmarks.remote import Remote

STEPS = {
    "ingest": "impressions",
    "table": "items",
    "embed": "items",
    "evaluate": "impressions",
}
SIZES, QUICK_SIZES = (100_000, 1_000_000, 10_000_000), (20_000, 100_000)
LEGEND = (16, 166, 271, 386)
COLORS = ("#c05a3c", "#8b5fb0", "#a88400", "#3a8ca6")

Row = dict[str, Any]


def main() -> None:
    """Run each step at each size, or draw an earlier run."""
    parser = harness.parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", help="other sizes")
    parser.add_argument(
        "--steps", nargs="+", choices=STEPS, default=[*STEPS], help="some steps"
    )
    parser.add_argument("--chart", type=pathlib.Path, help="SVG to write")
    parser.add_argument(
        "--from", dest="lines", type=pathlib.Path, help="lines to draw"
    )
    arguments = parser.parse_args()
    harness.pin(arguments.threads)
    if arguments.lines:
        text = arguments.lines.read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()]
    else:
        rows = [*_run(arguments)]
    rows.sort(key=lambda row: row["size"])
    if arguments.chart:
        picture = _picture(rows)
        arguments.chart.write_text(picture, encoding="utf-8")


def _run(arguments: argparse.Namespace) -> Iterator[Row]:
    report = harness.Report("growth", arguments)
    sizes = arguments.sizes or (QUICK_SIZES if arguments.quick else SIZES)
    for step in arguments.steps:
        for size in sizes:
            harness.say(f"growth: {step} of {size:,} {STEPS[step]}")
            with (
                tempfile.TemporaryDirectory(prefix="growth-") as folder,
                Remote("benchmarks.growth_steps") as process,
            ):
                facts = process.call(step, folder=folder, size=size)
            case = f"{step}, {size:,} {STEPS[step]}"
            report.fact(case, step=step, size=size, **facts)
            yield {"step": step, "size": size, **facts}
    report.close()


def _picture(rows: list[Row]) -> str:
    """Return an SVG of memory above its start, and of CPU time, by size."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 740 300" '
        'role="img" aria-label="Growth of memory and CPU time" '
        'font-family="system-ui, sans-serif" font-size="13" fill="#414c59">'
        '<rect width="740" height="300" fill="#ffffff"/>',
        *_panel(60, "MB above the start", rows, [("", _memory), ("5", _data)]),
        *_panel(420, "CPU seconds", rows, [("", _cpu)]),
        '<text x="600" y="288">dashed: all data</text>',
    ]
    for left, color, step in zip(LEGEND, COLORS, STEPS, strict=True):
        parts.append(
            f'<text x="{left}" y="288" fill="{color}">'
            f"{step} ({STEPS[step]})</text>"
        )
    return "".join([*parts, "</svg>\n"])


def _memory(row: Row) -> float:
    return float(row["peak_mb"] - row["before_mb"])


def _data(row: Row) -> float:
    return float(row["data_mb"])


def _cpu(row: Row) -> float:
    return float(row["cpu_s"])


def _panel(
    left: int,
    title: str,
    rows: list[Row],
    curves: list[tuple[str, Callable[[Row], float]]],
) -> Iterator[str]:
    """Yield the parts of a plot with logarithmic axes."""
    values = [max(1.0, of(row)) for row in rows for _, of in curves]
    bottom = math.floor(math.log10(min(values)))
    top = max(bottom + 1, math.ceil(math.log10(max(values))))
    sizes = sorted({row["size"] for row in rows})
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
    for step, color in zip(STEPS, COLORS, strict=True):
        mine = [row for row in rows if row["step"] == step]
        for dash, of in curves:
            places = [at(row["size"], of(row)) for row in mine]
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            yield (
                f'<polyline points="{points}" fill="none" stroke="{color}" '
                f'stroke-width="2" stroke-dasharray="{dash}"/>'
            )
            yield from (
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>'
                for x, y in places
            )


if __name__ == "__main__":
    main()
