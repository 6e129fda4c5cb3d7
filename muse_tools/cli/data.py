"""``muse data``: make, convert and look at raw tables.

Results go to standard output, progress and errors to standard error. Exit
codes: 0 fine, 1 a problem with the data, 2 wrong usage.
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from muse_tools.cli import output
from muse_tools.cli.options import JsonOption, OutOption, grouped
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.options import CompleteJourneyOptions, SyntheticOptions

app = output.group("data", "Declare, make, convert and inspect raw tables.")


_SHARES = {
    "behaviors_with_embedding",
    "candidates_with_embedding",
    "click_rate",
    "items_with_content",
    "joined",
    "label_rates",
    "missing_values",
    "modalities",
    "of_users_shown",
    "with_item_row",
    "with_user_row",
}


@contextlib.contextmanager
def _working(title: str) -> Iterator[Callable[[str, float], None]]:
    """Shows progress; a problem with the data is one line and exit code 1."""
    with output.one_line_errors(), output.progress(title) as tell:
        try:
            yield tell
        except OSError as error:
            raise DataError(
                "IO",
                str(error),
                "check path, permissions and disk space, then run the command "
                "again.",
            ) from error


def _make(
    title: str,
    out: pathlib.Path,
    as_json: bool,
    make: Callable[..., tuple[dict[str, Any], bool]],
) -> None:
    """Makes a data set, prints its content and suggests the next command."""
    with _working(title) as tell:
        made, reused = make(progress=tell)
    if as_json:
        output.write_json({"reused": reused, **made})
        return
    lines = [
        f"{'Reused' if reused else 'Wrote'} {out / 'raw'} "
        f"({made['seconds']} s to make)"
    ]
    for section in ("splits", "counts"):
        for name, value in made.get(section, {}).items():
            lines.append(f"  {name}: {_value(value)}")
    for section in ("items", "search"):
        if section in made:
            lines.append(f"  {section}: {_value(made[section])}")
    for table, reasons in made.get("broken", {}).items():
        lines.append(f"  broken rows in {table}: {_counted(reasons)}")
    output.write_lines([*lines, f"Next: muse data inspect {out}"])


@app.command("complete-journey")
@grouped
def complete_journey_command(
    out: OutOption,
    options: CompleteJourneyOptions,
    as_json: JsonOption = False,
) -> None:
    """Make raw tables from the Complete Journey purchases: 10 to 15 seconds.

    Negatives are sampled by popularity among the products sold in the same
    store and week; DIR/dataset.json describes the whole policy. A complete
    output with the same options is reused.

    Example: muse data complete-journey --out demo_output/data
    """
    from muse_tools.datasets import complete_journey

    make = functools.partial(complete_journey.generate, out, options)
    _make("complete journey", out, as_json, make)


@app.command("synth")
@grouped
def synth_command(
    out: OutOption,
    options: SyntheticOptions,
    as_json: JsonOption = False,
) -> None:
    """Make synthetic raw tables with latent interests behind the clicks.

    The time grows with users times history. A complete output with the same
    options is reused.

    Example: muse data synth --users 2000 --items 20000 --history 500 --out x
    """
    from muse_tools.datasets import synth

    make = functools.partial(synth.generate, out, options)
    _make("synthetic data", out, as_json, make)


Directory = Annotated[
    pathlib.Path,
    typer.Argument(
        metavar="DIR",
        help="Folder of the tables (or of raw/); for published shards, of "
        "train/, test/ and feature_map/.",
        show_default=False,
    ),
]


@app.command("import-joined")
def import_joined_command(
    directory: Directory,
    out: OutOption,
    as_json: JsonOption = False,
) -> None:
    """Turn the published joined shards into raw tables.

    Each history is stored once instead of once per impression. Rejected rows
    go to OUT/rejected with their reason. The time grows with the impressions
    and with the length of their histories.

    Example: muse data import-joined Taobao-MM --out taobao_raw
    """
    from muse_tools.datasets import joined

    make = functools.partial(joined.import_joined, directory, out)
    _make("import joined shards", out, as_json, make)


@app.command("inspect")
def inspect_command(
    directory: Directory,
    max_users: Annotated[
        int,
        typer.Option(
            min=0, help="User rows per table whose histories are read; 0: all."
        ),
    ] = 200_000,
    schema: Annotated[
        str | None,
        typer.Option(
            help="Declaration to check the tables against: a YAML file, "
            "taobao_mm or complete_journey. [default: schema.yaml beside "
            "the tables, else taobao_mm]"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Summarize raw tables: schemas, rows, clicks, histories, vectors.

    The exit code is 1 if a table is missing, empty or damaged, a column is
    missing or has a wrong type, no rows join, or all labels are equal. The
    time grows with the rows of all tables and with --max-users.

    Example: muse data inspect demo_output/data --json
    """
    from muse_tools.datasets import inspection
    from schemas import ranking_schema

    with _working("inspect") as tell:
        declared = ranking_schema.named(schema) if schema else None
        found = inspection.inspect(directory, max_users, tell, declared)
        tell("done", 1.0)
    if as_json:
        output.write_json(found)
    else:
        _show_inspection(found)
    for problem in found["problems"]:
        sys.stderr.write(
            f"error: [{problem['code']}] {problem['message']} "
            f"Fix: {problem['hint']}\n"
        )
    if not found["ok"]:
        raise typer.Exit(1)


@app.command("init")
def init_command(
    directory: Directory,
    out: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="File to write. [default: DIR/schema.yaml]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a first declaration of your own files, to edit: 1 to 5 seconds.

    Reads the first rows of Parquet, .csv and .jsonl files and guesses tables,
    keys, times, labels and features. Open questions are comments in the file,
    # QUESTION. No file is overwritten.

    Example: muse data init movies
    """
    from muse_tools.datasets import first_declaration

    with _working("init") as tell:
        path, text = first_declaration.write(directory, out)
        tell("done", 1.0)
    questions = text.count(first_declaration.QUESTION)
    schema = "" if out is None else f" --schema {path}"
    vectors = ", item_embeddings: text_svd" * ("\ntext:" in text)
    output.write_lines(
        [
            text.removesuffix("\n"),
            f"Wrote {path}. Questions in it: {questions}.",
            "Next (docs/own-data.md):",
            f"1. Edit {path} until it describes your data.",
            f"2. muse data inspect {directory}{schema}",
            "3. muse pipeline run --config YOURS.yaml, a configuration of your "
            f"own with output_dir, data: {{raw_dir: {directory}}}{vectors}",
        ]
    )


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


def _rejected_line(found: dict[str, Any]) -> str:
    reasons = _counted(found["rejected"])
    rejected = sum(found["rejected"].values())
    line = (
        f"{found['read']:,} read = {found['accepted']:,} accepted + "
        f"{rejected:,} rejected"
    )
    return f"{line} ({reasons})" if reasons else line


def _show_inspection(found: dict[str, Any]) -> None:
    """Prints the summary as text."""
    from rich.console import Console
    from rich.table import Table

    overview = Table("table", "files", "rows", "MB", "columns", "schema")
    for name, table in found["tables"].items():
        overview.add_row(
            name,
            str(table["files"]),
            "?" if table["rows"] is None else f"{table['rows']:,}",
            f"{table['bytes'] / 1e6:,.2f}",
            str(len(table["columns"])),
            "ok" if table["ok"] else f"{len(table['problems'])} problem(s)",
        )
    output.write_lines([f"Raw tables in {found['directory']}"])
    Console(file=sys.stdout, highlight=False).print(overview)
    sections = {
        **{f"{split} samples": s for split, s in found["samples"].items()},
        **{f"{split} users": s for split, s in found["users"].items()},
        "events": found["events"],
        "items": found["items"],
        "embeddings": found["embeddings"],
        **found["search"],
    }
    lines = []
    for name, section in sections.items():
        if section:
            lines.append(f"{name}: {_rejected_line(section)}")
            lines += [
                f"  {key.replace('_', ' ')}: {_value(value, key in _SHARES)}"
                for key, value in section.items()
                if key not in ("read", "accepted", "rejected")
            ]
    lines += [f"note: {note}" for note in found["notes"]]
    if found["joins"] and all(
        s["joined"] == 1 for s in found["samples"].values()
    ):
        lines.append("The tables join.")
    output.write_lines(lines)


def _value(value: Any, share: bool = False) -> str:
    """Returns a JSON value as text; shares become percentages."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or isinstance(value, str):
        return value or "-"
    if isinstance(value, list):
        return "-".join(map(str, value))
    if isinstance(value, dict):
        inner = []
        for key, one in value.items():
            text = _value(one, share or key in _SHARES)
            text = f"({text})" if isinstance(one, dict) else text
            inner.append(f"{key.replace('_', ' ')} {text}")
        return ", ".join(inner) or "none"
    if share and isinstance(value, float):
        return f"{value:.2%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
