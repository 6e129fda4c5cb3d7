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
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import harness, plots
from benchmarks.remote import Remote

STEPS = {
    "ingest": "impressions",
    "table": "items",
    "embed": "items",
    "evaluate": "impressions",
}
SIZES, QUICK_SIZES = (100_000, 1_000_000, 10_000_000), (20_000, 100_000)

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

    def curves(of: Callable[[Row], float], dash: str = "") -> list[plots.Curve]:
        return [
            plots.Curve(
                [(row["size"], of(row)) for row in rows if row["step"] == step],
                color,
                dash,
            )
            for step, color in zip(STEPS, plots.COLORS, strict=True)
        ]

    return plots.picture(
        "Growth of memory and CPU time",
        {
            "MB above the start": [
                *curves(lambda row: row["peak_mb"] - row["before_mb"]),
                *curves(lambda row: row["data_mb"], "5"),
            ],
            "CPU seconds": curves(lambda row: row["cpu_s"]),
        },
        [f"{step} ({what})" for step, what in STEPS.items()],
        "dashed: all data",
    )


if __name__ == "__main__":
    main()
