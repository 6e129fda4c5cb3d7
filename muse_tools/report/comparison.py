"""A comparison's results as what a page shows: words, rows and pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from muse_tools.compare.claims import RULE
from muse_tools.compare.config import BASE_EMBEDDINGS, noise_level
from muse_tools.compare.results import (
    Claim,
    DataSetResults,
    Group,
    GroupTable,
    Interval,
    Results,
    Row,
    Table,
)
from muse_tools.report import charts
from muse_tools.report.forest import Entry, Heading, forest
from muse_tools.report.vectors import interval_values, shown_vectors

__all__ = [
    "RULE",
    "Judged",
    "Part",
    "data_set",
    "facts",
    "headline",
    "method_colors",
]

_NO: Final = "–"
_MUSE: Final = "MUSE"
_BEST: Final = 3


@dataclasses.dataclass(frozen=True)
class Part:
    """One table of the comparison.

    Attributes:
        id: for links.
        title: above it.
        paper: the table or figure of the paper.
        text: what it varies.
        pictures: SVG or HTML, each with its caption.
        head: names of the columns; all but the first are numbers.
        rows: a cell is its lines, the first one the more important.
    """

    id: str
    title: str
    paper: str
    text: str
    pictures: list[tuple[str, str]]
    head: list[str]
    rows: list[list[tuple[str, ...]]]


@dataclasses.dataclass(frozen=True)
class Judged:
    """A claim with its picture.

    Attributes:
        claim: as stored.
        reason: why, as a sentence begins.
        picture: HTML of its differences, or "".
        kind: ``yes``, ``no`` or ``open``.
    """

    claim: Claim
    reason: str
    picture: str
    kind: str


_TEXTS: Final[Mapping[str, tuple[str, str]]] = {
    "overall": (
        "Methods",
        "All methods with the same embeddings, short-term part, tower, data "
        "order and seeds.",
    ),
    "gsu": (
        "Search (GSU)",
        "Which behaviours are searched for in the history; what is made of "
        "them is SA-TA with SimTier in every row.",
    ),
    "esu": (
        "Exact search unit (ESU)",
        "What is made of the behaviours found; the search is the cosine of "
        "SCL vectors in every row.",
    ),
    "history": (
        "Length of the history",
        "Trained and evaluated with only the newest behaviours of each "
        "request.",
    ),
    "representation": (
        "Quality of the item vectors",
        "The same models on other vectors. noise:S adds a Gaussian vector of "
        "length S to each unit vector, the same one to equal vectors; "
        "item_noise:S draws it for each item.",
    ),
    "activity": (
        "Users by behaviours in their history",
        "Gain over the baseline within groups of users.",
    ),
    "repetition": (
        "Candidates bought before, and new ones",
        "Gain over the baseline within groups of candidates, by how often "
        "the item is in the user's history.",
    ),
    "repetition_vectors": (
        "Item vectors, for candidates bought before and new ones",
        "MUSE with other item vectors, by how often the candidate is in the "
        "user's history.",
    ),
    "popularity": (
        "Items by impressions in the train split",
        "Gain over the baseline within groups of items; 0 is a new item.",
    ),
}

# The first two as in the page of a pipeline, which has DIN and MUSE.
_COLORS: Final = {
    name: color
    for color, name in enumerate(
        ("DIN", "MUSE", "SIM-hard", "SIM-soft", "TWIN", "MISS")
    )
}
_NUM_COLORS: Final = 8

_STATUSES: Final = (
    "confirmed",
    "not confirmed",
    "cannot be tested on this data",
)
_AXES: Final = {
    "activity": "behaviours in the history",
    "popularity": "training impressions of the item",
    "repetition": "times that the item is in the history",
    "repetition_vectors": "times that the item is in the history",
}
_KINDS: Final = {"confirmed": "yes", "not confirmed": "no"}


def headline(results: Results) -> list[str]:
    """Returns what the comparison shows, in a few honest sentences."""
    return [
        line for data in results.data_sets.values() for line in _verdicts(data)
    ]


def _verdicts(data: DataSetResults) -> Iterator[str]:
    rows = [
        row
        for table in data.tables
        if table.name == "overall"
        for row in table.rows
    ]
    scored = [
        (row.gauc.value, row.name)
        for row in rows
        if row.gauc is not None and row.gauc.value is not None
    ]
    if len(scored) > 1:
        best = ", ".join(
            f"{name} {value:.4f}"
            for value, name in sorted(scored, reverse=True)[:_BEST]
        )
        yield f"Highest GAUC of {len(scored)} methods: {best}."
    for row in rows:
        if row.name == _MUSE and row.difference and row.baseline:
            yield _sentence(row.difference, _short(row.baseline))
    statuses = [claim.status for claim in data.claims]
    if statuses:
        counted = ", ".join(
            f"{statuses.count(status)} {status}"
            for status in _STATUSES
            if status in statuses
        )
        yield f"Claims of the paper: {counted}."
    lacking = sum(cell.status != "done" for cell in data.cells)
    if lacking:
        yield f"{lacking} of {len(data.cells)} trainings are missing."


def _sentence(found: Interval, baseline: str) -> str:
    entry = _entry(_MUSE, found)
    said = {
        "above": "MUSE is above",
        "below": "MUSE is below",
        "open": "No difference shown between MUSE and",
    }.get(entry.kind, "MUSE against")
    return f"{said} {baseline}: {entry.numbers} GAUC, paired."


def facts(results: Results) -> list[tuple[str, str]]:
    """Returns how the comparison was made."""
    settings = results.settings
    found = [
        ("command", results.command),
        (
            "size",
            "quick: little data, for a look" if results.quick else "full",
        ),
        (
            "seeds of the methods",
            _joined(settings.get("seeds")),
        ),
        (
            "seeds of the other tables",
            _joined(settings.get("ablation_seeds")),
        ),
        ("bootstrap resamples of users", f"{results.bootstrap_samples:,}"),
        ("code that trained (digest)", results.code),
        (
            "versions",
            ", ".join(f"{k} {v}" for k, v in results.versions.items()),
        ),
    ]
    return [(name, value) for name, value in found if value]


def data_set(
    data: DataSetResults, training: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """Returns all that the page shows of one data set.

    Args:
        data: its results.
        training: pictures of the trainings, with captions.

    Returns:
        ``facts`` and ``splits`` (of the data), ``parts`` (tables with their
        pictures, `Part`), ``training``, ``vectors``, ``claims`` (`Judged`),
        ``cells`` (not finished) and ``all_cells``.
    """
    return {
        "facts": _data_facts(data),
        "splits": _splits(data.description.get("splits")),
        "parts": [
            *(_part(table) for table in data.tables),
            *(_group_part(table) for table in data.groups),
        ],
        "training": list(training),
        "vectors": shown_vectors(data.vectors),
        "claims": [
            Judged(
                claim,
                claim.reason[:1].upper() + claim.reason[1:],
                forest([_entry(c.name, c.difference) for c in claim.contrasts]),
                _KINDS.get(claim.status, "open"),
            )
            for claim in data.claims
        ],
        "cells": [cell for cell in data.cells if cell.status != "done"],
        "all_cells": data.cells,
    }


def _data_facts(data: DataSetResults) -> list[tuple[str, str]]:
    description = data.description
    found = [
        ("held-out users", f"{data.users:,}"),
        ("held-out impressions", f"{data.impressions:,}"),
        (
            "clicked",
            f"{data.clicks:,}"
            + (
                f" ({100 * data.clicks / data.impressions:.2f} %)"
                if data.impressions
                else ""
            ),
        ),
        ("longest history", f"{data.max_history:,}"),
        ("item vectors", str(description.get("item_embeddings", ""))),
        ("trainings", f"{len(data.cells):,}"),
    ]
    found += [
        (f"data: {name.removeprefix('parameters, ')}", value)
        for name, value in _flat(
            {
                key: value
                for key, value in description.items()
                if key not in ("splits", "item_embeddings")
            }
        )
    ]
    return [(name, value) for name, value in found if value]


def _flat(values: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Gives the leaves of a nested description with their paths."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            word = str(key).replace("_", " ")
            yield from _flat(value, f"{name}, {word}" if name else word)
    elif isinstance(values, list | tuple):
        yield name, " to ".join(map(_plain, values))
    else:
        yield name, _plain(values)


def _plain(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    # Seeds and other names of eight digits are no amounts.
    return f"{value:,}" if abs(value) < 1e7 else str(value)


def _splits(splits: Any) -> tuple[list[str], list[list[str]]] | None:
    """Returns names and rows of a table of the splits, or None."""
    if not isinstance(splits, Mapping) or not splits:
        return None
    flat = {str(name): dict(_flat(split)) for name, split in splits.items()}
    labels = list(dict.fromkeys(k for split in flat.values() for k in split))
    return list(flat), [
        [label, *(split.get(label, _NO) for split in flat.values())]
        for label in labels
    ]


def _part(table: Table) -> Part:
    title, text = _TEXTS.get(table.name, (table.name, ""))
    name = {
        "gsu": _of_search,
        "esu": _of_unit,
        "history": _of_history,
        "representation": _of_vectors,
    }.get(table.name, _of_method)
    return Part(
        id=table.name,
        title=title,
        paper=table.paper,
        text=text,
        pictures=_pictures(table),
        head=[
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
        rows=[[name(row), *_numbers(row)] for row in table.rows],
    )


def _numbers(row: Row) -> list[tuple[str, ...]]:
    seeds = (_joined(row.seeds),)
    if row.missing or row.gauc is None:
        lacking = f"seed {_joined(row.missing)}" if row.missing else ""
        return [("missing", lacking), *[(_NO,)] * 6, seeds]
    return [
        _with_interval(row.gauc, ""),
        ("baseline",)
        if row.baseline is None
        else _with_interval(row.difference, "+"),
        (_digits(row.auc, 4),),
        (_digits(row.log_loss, 4),),
        (_digits(row.calibration, 3),),
        (
            _count(row.parameters),
            f"({_count(row.parameters_without_tables)})",
        ),
        (_NO if row.train_seconds is None else f"{row.train_seconds:.0f} s",),
        seeds,
    ]


def _with_interval(found: Interval | None, sign: str) -> tuple[str, ...]:
    if found is None or found.value is None:
        return (_NO,)
    lines = [f"{found.value:{sign}.4f}"]
    if found.lower is not None and found.upper is not None:
        lines.append(f"{found.lower:{sign}.4f} to {found.upper:{sign}.4f}")
    if found.spread is not None:
        lines.append(f"± {found.spread:.4f}")
    return tuple(lines)


def _pictures(table: Table) -> list[tuple[str, str]]:
    found = []
    if table.name == "history":
        found.append(
            (
                _curves(
                    "GAUC over the length of the history",
                    "newest behaviours kept",
                    table.rows,
                    lambda row: float(row.history),
                ),
                "GAUC by behaviours kept, with 95 % intervals over users.",
            )
        )
    if table.name == "representation":
        found.append(
            (
                _curves(
                    "GAUC over the noise in the item vectors",
                    "length S of the noise",
                    table.rows,
                    _noise,
                ),
                "GAUC by noise:S added to the item vectors, with 95 % "
                "intervals over users.",
            )
        )
    found.append(
        (
            forest(list(_lines(table))),
            "Paired differences of GAUC with 95 % intervals over users. A "
            "filled dot: the interval does not include 0."
            + (
                " Thin marks: each seed alone."
                if any(len(row.seeds) > 1 for row in table.rows)
                else ""
            ),
        )
    )
    return [(picture, caption) for picture, caption in found if picture]


def _lines(table: Table) -> Iterator[Heading | Entry]:
    """Gives the rows of a table by what they are compared with."""
    labels = {
        f"{row.name}, vectors {row.embeddings}, history {row.history}": _label(
            table.name, row
        )
        for row in table.rows
    }
    baselines = dict.fromkeys(row.baseline for row in table.rows)
    for baseline in baselines:
        if baseline is None:
            continue
        yield Heading(f"minus {labels.get(baseline, baseline)}")
        for row in table.rows:
            if row.baseline == baseline:
                note = "missing" if row.missing or row.gauc is None else _NO
                if row.missing:
                    note = f"missing: seed {_joined(row.missing)}"
                yield _entry(_label(table.name, row), row.difference, note)


def _label(table: str, row: Row) -> str:
    if table in ("gsu", "esu"):
        part, *method = (_of_search if table == "gsu" else _of_unit)(row)
        return f"{part} ({method[0]})" if method else part
    if table == "history":
        return ", ".join(_of_history(row))
    if table == "representation":
        return ", ".join(_of_vectors(row))
    return row.name


def _entry(name: str, found: Interval | None, note: str = _NO) -> Entry:
    if found is None:
        return Entry(name, None, note=note)
    return Entry(
        name,
        found.value,
        found.lower,
        found.upper,
        found.spread,
        tuple(value for value in found.by_seed if value is not None),
        note,
    )


def _curves(
    title: str,
    axis: str,
    rows: Sequence[Row],
    place: Callable[[Row], float | None],
) -> str:
    """Draws GAUC over something, a curve per method; "" without two points."""
    points: dict[str, list[tuple[float, float, float, float]]] = {}
    for row in rows:
        x, found = place(row), row.gauc
        if x is None or found is None or found.value is None:
            continue
        lower, upper = found.lower, found.upper
        points.setdefault(row.name, []).append(
            (
                x,
                found.value,
                found.value if lower is None else lower,
                found.value if upper is None else upper,
            )
        )
    points = {name: sorted(some) for name, some in points.items()}
    if max(map(len, points.values()), default=0) < 2:
        return ""
    return charts.lines(
        title,
        axis,
        {
            name: ([p[0] for p in some], [p[1] for p in some])
            for name, some in points.items()
        },
        {name: [p[2:] for p in some] for name, some in points.items()},
        method_colors(points),
    )


def method_colors(names: Iterable[str]) -> list[int]:
    """Returns colours: a method has the same one in every picture."""
    free = iter(range(len(_COLORS), len(_COLORS) + 100))
    return [
        _COLORS[name] if name in _COLORS else next(free) % _NUM_COLORS
        for name in names
    ]


def _noise(row: Row) -> float | None:
    if row.embeddings == BASE_EMBEDDINGS:
        return 0.0
    return noise_level(row.embeddings)


def _group_part(table: GroupTable) -> Part:
    title, text = _TEXTS.get(table.name, (table.name, ""))
    names = list(dict.fromkeys(n for g in table.groups for n in g.gain))
    return Part(
        id=table.name,
        title=title,
        paper=table.paper,
        text=text,
        pictures=_group_pictures(table, names),
        head=[
            "group",
            f"GAUC of {table.baseline}",
            *(f"{name} gains" for name in names),
        ],
        rows=[
            [
                (
                    _bucket(group),
                    f"{group.users:,} users",
                    f"{group.impressions:,} impressions",
                ),
                _with_interval(group.gauc.get(table.baseline), ""),
                *(_gain(group, name) for name in names),
            ]
            for group in table.groups
        ],
    )


def _group_pictures(
    table: GroupTable, names: Sequence[str]
) -> list[tuple[str, str]]:
    series = {
        name: [interval_values(group.gain.get(name)) for group in table.groups]
        for name in names
    }
    series = {name: values for name, values in series.items() if any(values)}
    if not series:
        return []
    picture = charts.intervals(
        f"Gain over {table.baseline} by {table.name}",
        _AXES.get(table.name, table.name),
        [_bucket(group) for group in table.groups],
        series,
        zero=True,
        colors=method_colors(series),
    )
    caption = (
        f"GAUC minus that of {table.baseline}, paired, with 95 % intervals "
        f"over users; mean of seeds {_joined(table.seeds)}."
    )
    return [(picture, caption)]


def _gain(group: Group, name: str) -> tuple[str, ...]:
    """Returns a method's gain, and its GAUC below."""
    lines = _with_interval(group.gain.get(name), "+")
    found = group.gauc.get(name)
    if found is None or found.value is None:
        return lines
    value, *ends = _with_interval(found, "")
    spread = "" if found.spread is None else f" {ends.pop()}"
    return (*lines, f"GAUC {value}{spread}", *ends)


def _bucket(group: Group) -> str:
    """Returns a group's bounds, without what they bound."""
    return group.name.rpartition(" ")[2]


def _of_method(row: Row) -> tuple[str, ...]:
    """Returns the method's name and what it is made of."""
    parts = " + ".join(part for part in (row.gsu, row.esu) if part)
    return (row.name, parts) if parts and parts != row.name else (row.name,)


def _of_search(row: Row) -> tuple[str, ...]:
    return _with_method(row.gsu or "none", row)


def _of_unit(row: Row) -> tuple[str, ...]:
    return _with_method(row.esu or "none", row)


def _with_method(part: str, row: Row) -> tuple[str, ...]:
    """Returns a part's name, and the method that the pair is, if any."""
    return (part,) if " + " in row.name else (part, row.name)


def _of_history(row: Row) -> tuple[str, ...]:
    return row.name, f"{row.history:,} behaviours"


def _of_vectors(row: Row) -> tuple[str, ...]:
    return row.name, _vectors(row)


def _vectors(row: Row) -> str:
    if row.embeddings == BASE_EMBEDDINGS:
        return "the pipeline's"
    return row.embeddings


def _short(baseline: str) -> str:
    """Returns the method of a baseline's name."""
    return baseline.partition(", vectors ")[0]


def _joined(values: Any) -> str:
    if not isinstance(values, list | tuple):
        return ""
    return ", ".join(map(str, values))


def _digits(value: float | None, digits: int) -> str:
    return _NO if value is None else f"{value:.{digits}f}"


def _count(value: int | None) -> str:
    return _NO if value is None else f"{value:,}"
