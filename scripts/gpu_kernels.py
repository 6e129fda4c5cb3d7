"""Writes this TensorFlow's column of the table in docs/gpu-kernels.md.

    .venv/bin/python scripts/gpu_kernels.py VERSION kinds/{muse,spread}/1

Every kind of op that the signatures of exports run between ids and scores,
with its dtypes, is a row. Columns of other TensorFlow releases stay: run it on
both stacks, each with exports of its own. `tests.serving.export.kinds` writes
exports with features of every kind.
"""

from __future__ import annotations

import argparse
import pathlib

FILE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "gpu-kernels.md"
SIGNATURES = (
    "rank",
    "explain",
    "embed",
    "prefetch",
    "rank_cached",
)

Row = tuple[str, str]
Table = dict[Row, dict[str, str]]


def state(problem: str) -> str:
    """Returns the entry of an op in the table."""
    return problem or "GPU"


def read(text: str) -> Table:
    """Returns the table of a page: states by op and dtypes, by release."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    entries = [
        [entry.strip().strip("`") for entry in line.strip("|").split("|")]
        for line in lines
    ]
    if not entries:
        return {}
    releases = [title.removeprefix("TensorFlow ") for title in entries[0][2:]]
    return {
        (op, dtypes): dict(zip(releases, states, strict=True))
        for op, dtypes, *states in entries[2:]
    }


def write(table: Table) -> str:
    """Returns the lines of a table."""
    releases = sorted({release for row in table.values() for release in row})
    head = ["op", "dtypes", *(f"TensorFlow {name}" for name in releases)]
    rows = [
        [f"`{op}`", f"`{dtypes}`", *(states.get(r, "-") for r in releases)]
        for (op, dtypes), states in sorted(table.items())
    ]
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def used(path: str) -> dict[Row, str]:
    """Returns the state of every op on an export's data path, by dtypes."""
    from serving.export.graph_walk import DATA
    from serving.export.kernel_report import kernel_report

    return {
        (use.op, use.dtypes): state(use.problem)
        for signature in SIGNATURES
        for use in kernel_report(path, signature).uses
        if use.kind == DATA
    }


def main() -> None:
    """Parses the arguments, and rewrites the table."""
    import tensorflow as tf

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("exports", nargs="+", help="folders of versions")
    found: dict[Row, str] = {}
    for path in parser.parse_args().exports:
        found |= used(path)
    text = FILE.read_text(encoding="utf-8")
    table = read(text)
    for row in table.values():
        row.pop(tf.__version__, None)
    for key, entry in found.items():
        table.setdefault(key, {})[tf.__version__] = entry
    table = {key: row for key, row in table.items() if row}
    head = text.partition("\n| ")[0].rstrip()
    FILE.write_text(f"{head}\n\n{write(table)}", encoding="utf-8")
    print(f"{FILE.name}: {len(found)} of {len(table)} rows")


if __name__ == "__main__":
    main()
