"""The tables of a comparison as blocks of a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from muse_tools.compare import words
from muse_tools.compare.config import BASE_EMBEDDINGS, noise_level
from muse_tools.compare.results import Group, GroupTable, Row, Table
from muse_tools.compare.scores import LISTS
from muse_tools.pages import blocks
from muse_tools.pages.blocks import NO_VALUE, Block, Entry, Point


def method_table(table: Table) -> Iterator[Block]:
    """Yields the charts and the rows of a table of methods."""
    yield from _charts(table)
    yield _rows(table)
    if any(row.lists for row in table.rows):
        yield _lists(table)


def _rows(table: Table) -> blocks.Table:
    return blocks.Table(
        [
            {"gsu": "GSU", "esu": "ESU"}.get(table.name, "method"),
            "GAUC",
            "difference",
            "AUC",
            "log loss",
            "calibration",
            "weights",
            "training",
            "seeds",
        ],
        [[_name(table.name, row), *_numbers(row)] for row in table.rows],
    )


def _lists(table: Table) -> blocks.Table:
    return blocks.Table(
        [
            "method",
            "NDCG@10",
            "MRR",
            "recall@10",
            "normalized entropy",
            "calibration error",
        ],
        [
            [
                _name(table.name, row),
                *(words.interval(row.lists.get(name)) for name in LISTS),
                (words.digits(row.normalized_entropy, 4),),
                (words.digits(row.calibration_error, 4),),
            ]
            for row in table.rows
        ],
    )


def _numbers(row: Row) -> list[Entry]:
    seeds = (words.joined(row.seeds),)
    if row.missing or row.gauc is None:
        lacking = f"seed {words.joined(row.missing)}" if row.missing else ""
        return [("missing", lacking), *[(NO_VALUE,)] * 6, seeds]
    return [
        words.interval(row.gauc),
        ("baseline",)
        if row.baseline is None
        else words.interval(row.difference, "+"),
        (words.digits(row.auc, 4),),
        (words.digits(row.log_loss, 4),),
        (words.digits(row.calibration, 3),),
        (
            words.count(row.parameters),
            f"({words.count(row.parameters_without_tables)})",
        ),
        (
            NO_VALUE
            if row.train_seconds is None
            else f"{row.train_seconds:.0f} s",
        ),
        seeds,
    ]


def _name(table: str, row: Row) -> Entry:
    """Returns a row's name, with details in brackets that make it unique."""
    parts = " + ".join(part for part in (row.gsu, row.esu) if part)
    if table in ("gsu", "esu"):
        name = (row.gsu if table == "gsu" else row.esu) or "none"
        more = "" if parts == row.name else row.name
    elif table == "history":
        name, more = row.name, f"{row.history:,} behaviors"
    elif table == "representation":
        name, more = row.name, words.vectors_name(row.embeddings)
    else:
        name, more = row.name, "" if parts == row.name else parts
    return (name, f"({more})") if more else (name,)


def _charts(table: Table) -> Iterator[Block]:
    if table.name == "history":
        yield from _curves(
            table.rows,
            lambda row: float(row.history),
            "GAUC over the length of the history",
            "newest behaviors kept",
            "GAUC by behaviors kept, with 95 % intervals over users.",
        )
    if table.name == "representation":
        yield from _curves(
            table.rows,
            lambda row: (
                0.0
                if row.embeddings == BASE_EMBEDDINGS
                else noise_level(row.embeddings)
            ),
            "GAUC over the noise in the item vectors",
            "length S of the noise",
            "GAUC by noise:S added to the item vectors, with 95 % intervals "
            "over users.",
        )
    several = any(len(row.seeds) > 1 for row in table.rows)
    yield blocks.Forest(
        list(_lines(table)),
        "Paired differences of GAUC with 95 % intervals over users. A filled "
        "dot: the interval does not include 0."
        + (" Thin marks: each seed alone." if several else ""),
    )


def _curves(
    rows: Sequence[Row],
    place: Callable[[Row], float | None],
    title: str,
    axis: str,
    caption: str,
) -> Iterator[blocks.Chart]:
    """Yields a chart with a curve of GAUC per method, if any has two points."""
    lines: dict[str, list[Point]] = {}
    for row in rows:
        x = place(row)
        if x is not None and (point := words.point(x, row.gauc)):
            lines.setdefault(row.name, []).append(point)
    if max(map(len, lines.values()), default=0) > 1:
        yield blocks.Chart(
            title,
            axis,
            "GAUC",
            [
                blocks.Line(name, sorted(points, key=lambda point: point.x))
                for name, points in lines.items()
            ],
            caption,
        )


def _lines(table: Table) -> Iterator[str | blocks.Difference]:
    """Yields the differences of a table, grouped by baseline."""
    names = [
        row.name
        if table.name == "overall"
        else " ".join(_name(table.name, row))
        for row in table.rows
    ]
    known = (
        f"{row.name}, vectors {row.embeddings}, history {row.history}"
        for row in table.rows
    )
    labels = dict(zip(known, names, strict=True))
    for baseline in dict.fromkeys(row.baseline for row in table.rows):
        if baseline is None:
            continue
        yield f"minus {labels.get(baseline, baseline)}"
        for row, label in zip(table.rows, names, strict=True):
            if row.baseline == baseline:
                note = "missing" if row.gauc is None else NO_VALUE
                if row.missing:
                    note = f"missing: seed {words.joined(row.missing)}"
                yield words.difference(label, row.difference, note)


def group_table(table: GroupTable) -> Iterator[Block]:
    """Yields a chart and a table of the gains over the baseline by group."""
    names = list(dict.fromkeys(n for g in table.groups for n in g.gain))
    lines = [
        blocks.Line(
            name,
            [
                point
                for place, group in enumerate(table.groups)
                if (point := words.point(place, group.gain.get(name)))
            ],
        )
        for name in names
    ]
    if any(line.points for line in lines):
        yield blocks.Chart(
            f"Gain over {table.baseline} by {table.name}",
            words.TABLES[table.name]["axis"],
            f"GAUC minus {table.baseline}",
            [line for line in lines if line.points],
            f"GAUC minus that of {table.baseline}, paired, with 95 % intervals "
            f"over users; mean of seeds {words.joined(table.seeds)}.",
            style="dots",
            categories=[_bounds(group) for group in table.groups],
            base=0.0,
        )
    yield blocks.Table(
        [
            "group",
            f"GAUC of {table.baseline}",
            *(f"{name} gains" for name in names),
        ],
        [
            [
                (
                    _bounds(group),
                    f"({group.users:,} users,",
                    f"{group.impressions:,} impressions)",
                ),
                words.interval(group.gauc.get(table.baseline)),
                *(_gain(group, name) for name in names),
            ]
            for group in table.groups
        ],
    )


def _gain(group: Group, name: str) -> Entry:
    """Returns a method's gain, and its GAUC below."""
    lines = words.interval(group.gain.get(name), "+")
    found = group.gauc.get(name)
    if found is None or found.value is None:
        return lines
    value, *rest = words.interval(found)
    return (*lines, f"GAUC {value}", " ".join(rest))


def _bounds(group: Group) -> str:
    """Returns a group's bounds, without its kind."""
    return group.name.rpartition(" ")[2]
