"""``muse data``: make, convert and look at raw tables.

Results go to standard output, progress and errors to standard error. Exit
codes: 0 fine, 1 a problem with the data, 2 wrong usage.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from muse_tools.cli import output
from muse_tools.datasets.errors import DataError

app = typer.Typer(
    name="data",
    help="Make, convert and inspect raw Taobao-MM tables.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def data() -> None:
    """Make, convert and inspect raw Taobao-MM tables."""


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turns data problems into one line and exit code 1."""
    try:
        yield
    except DataError as error:
        sys.stderr.write(f"error: {error}\n")
        raise typer.Exit(1) from error
    except OSError as error:
        text = " ".join(str(error).split())
        sys.stderr.write(
            f"error: [IO] {text} Fix: check path, permissions and disk "
            "space, then run the command again.\n"
        )
        raise typer.Exit(1) from error


@contextlib.contextmanager
def _progress(title: str) -> Iterator[Callable[[str, float], None]]:
    """Shows progress on standard error.

    On a terminal a bar that goes away at the end, so that an error is the
    last line; elsewhere (logs) one line per stage.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        told = ""

        def tell_log(stage: str, share: float) -> None:
            nonlocal told
            if stage != told and share < 1.0:
                sys.stderr.write(f"{title}: {stage} ({share:.0%} done)\n")
                sys.stderr.flush()
            told = stage

        yield tell_log
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task(title, total=1.0)

        def tell(stage: str, share: float) -> None:
            bar.update(task, description=f"{title}: {stage}", completed=share)

        yield tell


def _weeks(text: str, option: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    if not (first.strip().isdigit() and (not dash or last.strip().isdigit())):
        raise typer.BadParameter(
            f"expected weeks such as 42-49. Received: {text}",
            param_hint=option,
        )
    return int(first), int(last if dash else first)


def _write_json(content: Any) -> None:
    sys.stdout.write(
        json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        + "\n"
    )


Out = Annotated[
    pathlib.Path,
    typer.Option(
        "--out", help="Output directory.", show_default=False, file_okay=False
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON.")
]


@app.command("complete-journey")
def complete_journey_command(
    out: Out,
    seed: Annotated[
        int, typer.Option(help="Seed of every random choice.")
    ] = 20170101,
    negatives: Annotated[
        int, typer.Option(help="Negatives per positive.")
    ] = 10,
    max_history: Annotated[
        int, typer.Option(help="Longest history; the newest are kept.")
    ] = 1000,
    train_weeks: Annotated[
        str, typer.Option(help="Weeks of train positives, e.g. 42-49.")
    ] = "42-49",
    test_weeks: Annotated[
        str, typer.Option(help="Weeks of test positives, e.g. 50-53.")
    ] = "50-53",
    max_positives_per_user: Annotated[
        int, typer.Option(help="Train positives per household; 0: all.")
    ] = 16,
    max_test_positives_per_user: Annotated[
        int, typer.Option(help="Test positives per household; 0: all.")
    ] = 6,
    users: Annotated[
        int, typer.Option(help="Households to take; 0: all 2,469.")
    ] = 0,
    search_events: Annotated[
        int,
        typer.Option(help="Stand-ins for searches, and item content; 0: none."),
    ] = 60_000,
    as_json: AsJson = False,
) -> None:
    """Make raw tables from the Complete Journey purchases.

    Negatives are sampled by popularity among the products sold in the same
    store and week; the whole policy is in DIR/dataset.json. An equal
    complete output is reused.

    Example: muse data complete-journey --out demo_output/data
    """
    from muse_tools.datasets import complete_journey

    with output.wrong_usage():
        options = complete_journey.Options(
            seed=seed,
            negatives=negatives,
            max_history=max_history,
            train_weeks=_weeks(train_weeks, "--train-weeks"),
            test_weeks=_weeks(test_weeks, "--test-weeks"),
            max_positives_per_user=max_positives_per_user,
            max_test_positives_per_user=max_test_positives_per_user,
            users=users,
            search_events=search_events,
        )
    with _one_line_errors(), _progress("complete journey") as tell:
        made, reused = complete_journey.generate(out, options, tell)
        tell("reused" if reused else "done", 1.0)
    if as_json:
        _write_json({"reused": reused, **made})
        return
    sys.stdout.write(
        f"{'Reused' if reused else 'Wrote'} {out / 'raw'} "
        f"({made['seconds']} s to make)\n"
    )
    for split, counts in made["splits"].items():
        first, last = counts["weeks"]
        history = counts["history_length"]
        sys.stdout.write(
            f"  {split:5} weeks {first}-{last}: "
            f"{counts['impressions']:,} impressions = "
            f"{counts['positives']:,} positives + "
            f"{counts['negatives']:,} negatives, "
            f"{counts['users']:,} households, history mean "
            f"{history['mean']}, median {history['median']:.0f}\n"
            f"        left out: {counts['positives_over_limit']:,} positives "
            f"over the limit per household, "
            f"{counts['positives_without_negative']:,} without any negative "
            f"in their store and week\n"
        )
    items = made["items"]
    sys.stdout.write(
        f"  items: {items['used']:,} used, {items['with_features']:,} with "
        f"features, {items['with_embedding']:,} with a vector\n"
    )
    if "search" in made:
        pairs = made["search"]
        sys.stdout.write(
            f"  searches (stand-ins made of purchases): {pairs['pairs']:,} of "
            f"{pairs['households']:,} households, "
            f"{pairs['clicks_without_purchase']:,} clicks without purchase\n"
        )
    sys.stdout.write(f"Next: muse data inspect {out}\n")


@app.command("synth")
def synth_command(
    out: Out,
    users: Annotated[int, typer.Option(help="Users.")] = 10_000,
    items: Annotated[int, typer.Option(help="Items.")] = 50_000,
    history: Annotated[
        int, typer.Option(help="Longest history, up to 100,000.")
    ] = 1_000,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    candidates: Annotated[
        int, typer.Option(help="Impressions per user and split.")
    ] = 11,
    click_rate: Annotated[
        float, typer.Option(help="Expected share of clicks.")
    ] = 0.137,
    test_users: Annotated[
        float, typer.Option(help="Share of users with test impressions.")
    ] = 0.3,
    new_items: Annotated[
        float, typer.Option(help="Share of items never seen in training.")
    ] = 0.05,
    missing_embeddings: Annotated[
        float, typer.Option(help="Share of items without a vector.")
    ] = 0.1,
    padded_users: Annotated[
        float, typer.Option(help="Share of short histories with zeros.")
    ] = 0.1,
    broken: Annotated[
        int, typer.Option(help="Broken rows of every kind to add.")
    ] = 0,
    search_events: Annotated[
        int, typer.Option(help="Searches, and item content; 0: neither.")
    ] = 20_000,
    as_json: AsJson = False,
) -> None:
    """Make synthetic raw tables with latent interests behind the clicks.

    An equal complete output is reused.

    Example: muse data synth --users 2000 --items 20000 --history 500 --out x
    """
    from muse_tools.datasets import synth

    with output.wrong_usage():
        options = synth.Options(
            users=users,
            items=items,
            history=history,
            seed=seed,
            candidates=candidates,
            click_rate=click_rate,
            test_users=test_users,
            new_items=new_items,
            missing_embeddings=missing_embeddings,
            padded_users=padded_users,
            broken=broken,
            search_events=search_events,
        )
    with _one_line_errors(), _progress("synthetic data") as tell:
        made, reused = synth.generate(out, options, tell)
        tell("reused" if reused else "done", 1.0)
    if as_json:
        _write_json({"reused": reused, **made})
        return
    lines = [
        f"{'Reused' if reused else 'Wrote'} {out / 'raw'} "
        f"({made['seconds']} s to make)"
    ]
    for split, found in made["splits"].items():
        lines.append(
            f"  {split}: {found['impressions']:,} impressions of "
            f"{found['users']:,} users, click rate "
            f"{_percent(found['click_rate'])}, mean history "
            f"{found['mean_history']:,}, GAUC of the true probabilities "
            f"{found['gauc_of_true_probabilities']}"
        )
    found = made["items"]
    lines.append(
        f"  items: {found['count']:,} in {found['categories']:,} categories, "
        f"{found['with_embedding']:,} with a vector, "
        f"{found['new_in_test']:,} only in test"
    )
    if "search" in made:
        found = made["search"]
        lines.append(
            f"  searches: {found['events']:,} with a purchase, "
            f"{found['clicks_without_purchase']:,} clicks without one"
        )
    for table, reasons in made["broken"].items():
        text = ", ".join(f"{n:,} {why}" for why, n in reasons.items())
        lines.append(f"  broken rows in {table}: {text}")
    lines.append(f"Next: muse data inspect {out}")
    sys.stdout.write("\n".join(lines) + "\n")


@app.command("import-joined")
def import_joined_command(
    directory: Annotated[
        pathlib.Path,
        typer.Argument(
            metavar="DIR",
            help="Holds train/, test/ and feature_map/.",
            exists=True,
            file_okay=False,
            show_default=False,
        ),
    ],
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Turn the published joined shards into raw tables.

    Each history is stored once instead of once per impression. Rejected rows
    go to OUT/rejected with their reason.

    Example: muse data import-joined Taobao-MM --out taobao_raw
    """
    from muse_tools.datasets import joined

    with _one_line_errors(), _progress("import joined shards") as tell:
        made, reused = joined.import_joined(directory, out, tell)
        tell("reused" if reused else "done", 1.0)
    if as_json:
        _write_json({"reused": reused, **made})
        return
    counts = made["counts"]
    lines = [f"{'Reused' if reused else 'Wrote'} {out / 'raw'}"]
    for split in ("train", "test"):
        if split in counts:
            found = counts[split]
            lines += [
                f"  {split}: {_rejected_line(found)}",
                f"        {found['users']:,} users, "
                f"{found['padding_removed']:,} padding positions removed, "
                f"{found['other_versions_of_users']:,} differing rows of "
                "known users (first kept)",
            ]
    lines += [
        f"  items: {counts['items']:,}",
        f"  embeddings: {_rejected_line(counts['embeddings'])}",
        f"Next: muse data inspect {out}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


@app.command("inspect")
def inspect_command(
    directory: Annotated[
        pathlib.Path,
        typer.Argument(
            metavar="DIR",
            help="Holds the tables, directly or under raw/.",
            exists=True,
            file_okay=False,
            show_default=False,
        ),
    ],
    max_users: Annotated[
        int,
        typer.Option(
            min=0, help="User rows per table to read histories of; 0: all."
        ),
    ] = 200_000,
    as_json: AsJson = False,
) -> None:
    """Summarise raw tables: schemas, rows, clicks, histories, vectors.

    Exits with 1 when a table is missing, empty, damaged or has a missing
    column or a wrong type, when nothing joins, or all is of one label.

    Example: muse data inspect demo_output/data --json
    """
    from muse_tools.datasets import inspect as inspection

    with _one_line_errors(), _progress("inspect") as tell:
        found = inspection.inspect(directory, max_users, tell)
        tell("done", 1.0)
    if as_json:
        _write_json(found)
    else:
        _show_inspection(found)
    for problem in found["problems"]:
        sys.stderr.write(
            f"error: [{problem['code']}] {problem['message']} "
            f"Fix: {problem['hint']}\n"
        )
    if not found["ok"]:
        raise typer.Exit(1)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def _quantile_line(found: dict[str, float] | None, digits: int = 0) -> str:
    if not found:
        return "-"
    return ", ".join(f"{k} {v:,.{digits}f}" for k, v in found.items())


def _rejected_line(found: dict[str, Any]) -> str:
    reasons = ", ".join(f"{n:,} {why}" for why, n in found["rejected"].items())
    rejected = sum(found["rejected"].values())
    line = (
        f"{found['read']:,} read = {found['accepted']:,} accepted + "
        f"{rejected:,} rejected"
    )
    return f"{line} ({reasons})" if reasons else line


def _show_inspection(found: dict[str, Any]) -> None:
    """Writes the summary for people to standard output."""
    from rich.table import Table

    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
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
    console.print(f"Raw tables in {found['directory']}", markup=False)
    console.print(overview, soft_wrap=False)
    lines = []
    for split, samples in found["samples"].items():
        lines += [
            f"{split} samples: {_rejected_line(samples)}",
            f"  click rate {_percent(samples['click_rate'])}, "
            f"{samples['users']:,} users, {samples['items']:,} items, "
            f"{samples['impressions_per_user']} impressions per user",
            f"  with user row {_percent(samples['with_user_row'])}, with "
            f"item row {_percent(samples['with_item_row'])}, with embedding "
            f"{_percent(samples['candidates_with_embedding'])}",
        ]
    for split, users in found["users"].items():
        part = "" if users["complete"] else " (the first rows only)"
        lines += [
            f"{split} users: {_rejected_line(users)}{part}",
            f"  duplicate rows {users['duplicate_rows']:,}, empty histories "
            f"{users['empty_histories']:,}, padding {users['padding']:,}",
            "  history length: " + _quantile_line(users["history_length"]),
            f"  behaviours with embedding "
            f"{_percent(users['behaviors_with_embedding'])} of "
            f"{users['behaviors']:,}",
        ]
    if found["items"]:
        missing = ", ".join(
            f"{name} {_percent(share)}"
            for name, share in found["items"]["missing_values"].items()
        )
        lines += [
            f"items: {_rejected_line(found['items'])}",
            f"  missing values: {missing}",
        ]
    if found["embeddings"]:
        vectors = found["embeddings"]
        lines += [
            f"embeddings: {_rejected_line(vectors)}",
            f"  {vectors['dim']} x int8, scale {vectors['scale']}",
            "  norm: " + _quantile_line(vectors["norm"], 3),
        ]
    for name, section in found["search"].items():
        lines += _search_lines(name, section)
    lines += [f"note: {note}" for note in found["notes"]]
    if found["joins"] and all(
        s["joined"] == 1 for s in found["samples"].values()
    ):
        lines.append("The tables join.")
    sys.stdout.write("\n".join(lines) + "\n")


def _search_lines(name: str, found: dict[str, Any]) -> list[str]:
    """Returns the summary of ``item_content`` or ``search_events``."""
    lines = [f"{name}: {_rejected_line(found)}"]
    for modality, of_it in found["modalities"].items():
        width = of_it["width"]
        lines.append(
            f"  {modality}: {f'{width} floats' if width else 'text'}, in "
            f"{_percent(of_it['present'])} of the rows"
        )
    if "items_with_content" in found:
        lines.append(
            f"  items with content: {_percent(found['items_with_content'])}"
        )
    if "dropped_clicks" in found:
        dropped = ", ".join(
            f"{count:,} {why}" for why, count in found["dropped_clicks"].items()
        )
        lines.append(
            f"  clicks without purchase {found['clicks_without_purchase']:,}, "
            f"events without any {found['events_without_clicks']:,}, left "
            f"out: {dropped or 'none'}"
        )
        lines.append(
            f"  time {found['first_time']} to {found['last_time']} (seconds)"
        )
    return lines
