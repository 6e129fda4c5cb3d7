"""A comparison's results as the blocks of a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

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
from muse_tools.compare.vectors_view import vectors_view
from muse_tools.compare.words import (
    count,
    digits,
    interval,
    percent,
    vectors_name,
)
from muse_tools.pages import blocks
from muse_tools.pages.blocks import NO_VALUE, Block, Cell, Point

Training = Callable[[str, DataSetResults], list[blocks.Chart]]

_BEST: Final = 3
_ABOUT_TABLES: Final[Mapping[str, tuple[str, str]]] = {
    "overall": (
        "Methods",
        "All methods with the same embeddings, short-term part, tower, data "
        "order and seeds.",
    ),
    "gsu": (
        "Search (GSU)",
        "Only the search in the history differs; the exact search unit is "
        "SA-TA with SimTier in every row.",
    ),
    "esu": (
        "Exact search unit (ESU)",
        "Only the exact search unit differs; the search is the cosine of SCL "
        "vectors in every row.",
    ),
    "history": (
        "Length of the history",
        "Trained and evaluated with only the newest behaviors of each request.",
    ),
    "representation": (
        "Quality of the item vectors",
        "The same models on other vectors. noise:S adds a Gaussian vector of "
        "length S to each unit vector, the same one to equal vectors; "
        "item_noise:S draws it for each item.",
    ),
    "activity": (
        "Users by behaviors in their history",
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
_AXES: Final = {
    "activity": "behaviors in the history",
    "popularity": "training impressions of the item",
    "repetition": "times that the item is in the history",
    "repetition_vectors": "times that the item is in the history",
}
_STATUSES: Final[Mapping[str, str]] = {
    "confirmed": "yes",
    "not confirmed": "no",
    "cannot be tested on this data": "open",
}
_NOTES: Final = (
    "GAUC is the AUC within each user, weighted by the user's impressions, as "
    "the mean over seeds. Intervals resample users; the same resamples for "
    "all, so differences are paired. They do not contain the choice of the "
    "seed: ± is the standard deviation over seeds. Calibration is predicted "
    "over observed clicks; weights are trainable ones, in brackets those "
    "without the id tables."
)


def comparison_view(
    results: Results, training: Training | None = None
) -> list[Block]:
    """Returns the page of a comparison: what was ranked, and `results_view`."""
    about = [
        f"{len(first_seeds(data))} methods ranked {data.impressions:,} "
        f"held-out impressions of {data.users:,} users"
        + _weeks(data.description.get("parameters", {}))
        for data in results.data_sets.values()
    ]
    return [
        blocks.Heading(f"Comparison: {results.name}", 1),
        blocks.Text("; ".join(about) + ".", "soft"),
        *results_view(results, training),
    ]


def first_seeds(data: DataSetResults) -> dict[str, int]:
    """Returns the methods of the overall table, each with its first seed."""
    return {row.name: row.seeds[0] for row in _overall(data)}


def _overall(data: DataSetResults) -> list[Row]:
    return [
        row
        for table in data.tables
        if table.name == "overall"
        for row in table.rows
    ]


def _weeks(parameters: Mapping[str, Sequence[int]]) -> str:
    """Returns when the data are from, if they say so."""
    train, test = parameters.get("train_weeks"), parameters.get("test_weeks")
    if not train or not test:
        return ""
    return (
        f", weeks {test[0]} to {test[1]}, after training on weeks {train[0]} "
        f"to {train[1]}"
    )


def results_view(
    results: Results, training: Training | None = None
) -> list[Block]:
    """Returns everything below the title.

    `training` returns charts of the trainings of a data set.
    """
    found: list[Block] = [
        blocks.Text(line, "verdict") for line in headline(results)
    ]
    for number, (name, data) in enumerate(results.data_sets.items(), 1):
        charts = training(name, data) if training else []
        sections = list(_sections(data, f"set{number}-", results, charts))
        headings = [
            block
            for block in sections
            if isinstance(block, blocks.Heading) and block.id
        ]
        if len(results.data_sets) > 1:
            found.append(blocks.Heading(name))
        found += [blocks.Contents(headings), *sections]
    settings = json.dumps(results.settings, indent=2, ensure_ascii=False)
    return [
        *found,
        blocks.Details("Settings of the comparison", [blocks.Code(settings)]),
        blocks.Text(_NOTES, "soft"),
    ]


def headline(results: Results) -> list[str]:
    """Returns what the comparison shows, in a few sentences."""
    return [
        line for data in results.data_sets.values() for line in _verdicts(data)
    ]


def _verdicts(data: DataSetResults) -> Iterator[str]:
    rows = _overall(data)
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
        if row.name == "MUSE" and row.difference and row.baseline:
            found = _difference("MUSE", row.difference)
            said = {
                "above": "MUSE is above",
                "below": "MUSE is below",
                "open": "No difference shown between MUSE and",
            }.get(found.verdict, "MUSE against")
            baseline = row.baseline.partition(", vectors ")[0]
            yield f"{said} {baseline}: {found.numbers} GAUC, paired."
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


def _sections(
    data: DataSetResults,
    prefix: str,
    results: Results,
    training: Sequence[blocks.Chart],
) -> Iterator[Block]:
    missing = [cell for cell in data.cells if cell.status != "done"]
    if missing:
        yield blocks.Heading("Missing", 3)
        yield blocks.Bullets(
            [
                f"{cell.name}: {cell.status}"
                + (f": {cell.reason}" if cell.reason else "")
                for cell in missing
            ]
        )
    for table in data.tables:
        yield from _headed(table, prefix)
        yield from _charts(table)
        yield _table(table)
    for group_table in data.groups:
        yield from _headed(group_table, prefix)
        yield from _groups(group_table)
    if training:
        yield blocks.Heading("Training and calibration", 3, f"{prefix}training")
        yield from training
    if data.vectors is not None and data.vectors.rows:
        yield blocks.Heading(
            "What the item vectors tell apart, untrained", 3, f"{prefix}vectors"
        )
        yield from vectors_view(data.vectors)
    yield blocks.Heading("Claims of the paper", 3, f"{prefix}claims")
    yield blocks.Text(
        f"{_sentence(RULE)}. A difference above 0 supports the claim. Every "
        "claim has its own axis.",
        "soft",
    )
    yield from map(_claim, data.claims)
    yield blocks.Heading("Protocol and data", 3, f"{prefix}protocol")
    yield blocks.Table(
        ["", ""], [((n,), (v,)) for n, v in _facts(data, results) if v], 2
    )
    yield from _splits(data.description.get("splits"))
    yield _trainings(data)


def _headed(table: Table | GroupTable, prefix: str) -> Iterator[Block]:
    title, text = _ABOUT_TABLES[table.name]
    paper = f"paper: {table.paper}" if table.paper else ""
    yield blocks.Heading(title, 3, prefix + table.name, paper)
    yield blocks.Text(text)


def _table(table: Table) -> blocks.Table:
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


def _numbers(row: Row) -> list[Cell]:
    seeds = (_joined(row.seeds),)
    if row.missing or row.gauc is None:
        lacking = f"seed {_joined(row.missing)}" if row.missing else ""
        return [("missing", lacking), *[(NO_VALUE,)] * 6, seeds]
    return [
        interval(row.gauc),
        ("baseline",)
        if row.baseline is None
        else interval(row.difference, "+"),
        (digits(row.auc, 4),),
        (digits(row.log_loss, 4),),
        (digits(row.calibration, 3),),
        (count(row.parameters), f"({count(row.parameters_without_tables)})"),
        (
            NO_VALUE
            if row.train_seconds is None
            else f"{row.train_seconds:.0f} s",
        ),
        seeds,
    ]


def _name(table: str, row: Row) -> Cell:
    """Returns a row's name, and in brackets what else tells it from others."""
    parts = " + ".join(part for part in (row.gsu, row.esu) if part)
    if table in ("gsu", "esu"):
        name = (row.gsu if table == "gsu" else row.esu) or "none"
        more = "" if parts == row.name else row.name
    elif table == "history":
        name, more = row.name, f"{row.history:,} behaviors"
    elif table == "representation":
        name, more = row.name, vectors_name(row.embeddings)
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
    """Gives a curve of GAUC per method; nothing without two points."""
    lines: dict[str, list[Point]] = {}
    for row in rows:
        x = place(row)
        if x is not None and (point := _point(x, row.gauc)):
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


def _point(x: float, found: Interval | None) -> Point | None:
    if found is None or found.value is None:
        return None
    return Point(x, found.value, found.lower, found.upper)


def _lines(table: Table) -> Iterator[str | blocks.Difference]:
    """Gives the rows of a table by what they are compared with."""
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
                    note = f"missing: seed {_joined(row.missing)}"
                yield _difference(label, row.difference, note)


def _difference(
    name: str, found: Interval | None, note: str = NO_VALUE
) -> blocks.Difference:
    if found is None:
        return blocks.Difference(name, note=note)
    return blocks.Difference(
        name,
        found.value,
        found.lower,
        found.upper,
        found.spread,
        [value for value in found.by_seed if value is not None],
        note,
    )


def _groups(table: GroupTable) -> Iterator[Block]:
    names = list(dict.fromkeys(n for g in table.groups for n in g.gain))
    lines = [
        blocks.Line(
            name,
            [
                point
                for place, group in enumerate(table.groups)
                if (point := _point(place, group.gain.get(name)))
            ],
        )
        for name in names
    ]
    if any(line.points for line in lines):
        yield blocks.Chart(
            f"Gain over {table.baseline} by {table.name}",
            _AXES[table.name],
            f"GAUC minus {table.baseline}",
            [line for line in lines if line.points],
            f"GAUC minus that of {table.baseline}, paired, with 95 % intervals "
            f"over users; mean of seeds {_joined(table.seeds)}.",
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
                interval(group.gauc.get(table.baseline)),
                *(_gain(group, name) for name in names),
            ]
            for group in table.groups
        ],
    )


def _gain(group: Group, name: str) -> Cell:
    """Returns a method's gain, and its GAUC below."""
    lines = interval(group.gain.get(name), "+")
    found = group.gauc.get(name)
    if found is None or found.value is None:
        return lines
    value, *rest = interval(found)
    return (*lines, f"GAUC {value}", " ".join(rest))


def _bounds(group: Group) -> str:
    """Returns a group's bounds, without what they bound."""
    return group.name.rpartition(" ")[2]


def _claim(claim: Claim) -> blocks.Claim:
    return blocks.Claim(
        claim.text,
        claim.status,
        _sentence(claim.reason),
        _STATUSES[claim.status],  # type: ignore[arg-type]
        [_difference(one.name, one.difference) for one in claim.contrasts],
    )


def _facts(data: DataSetResults, results: Results) -> Iterator[tuple[str, str]]:
    """Gives how the comparison was made, and on what."""
    yield "command", results.command
    yield "size", "quick: little data, for a look" if results.quick else "full"
    yield "seeds of the methods", _joined(results.settings.get("seeds"))
    yield (
        "seeds of the other tables",
        _joined(results.settings.get("ablation_seeds")),
    )
    yield "bootstrap resamples of users", f"{results.bootstrap_samples:,}"
    yield "code that trained (digest)", results.code
    yield "versions", ", ".join(map(" ".join, results.versions.items()))
    clicked = f"{data.clicks:,}"
    if data.impressions:
        clicked += f" ({percent(data.clicks / data.impressions, 2)})"
    yield "held-out users", f"{data.users:,}"
    yield "held-out impressions", f"{data.impressions:,}"
    yield "clicked", clicked
    yield "longest history", f"{data.max_history:,}"
    yield "item vectors", str(data.description.get("item_embeddings", ""))
    yield "trainings", f"{len(data.cells):,}"
    for name, value in _flat(data.description):
        if not name.startswith(("splits", "item embeddings")):
            yield f"data: {name.removeprefix('parameters, ')}", value


def _flat(values: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Gives the leaves of a nested description with their paths."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            word = str(key).replace("_", " ")
            yield from _flat(value, f"{name}, {word}" if name else word)
    elif isinstance(values, list | tuple):
        yield name, " to ".join(map(_plain, values))
    else:
        yield name, _plain(values)


def _plain(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    # Seeds and other names of eight digits are not amounts.
    return f"{value:,}" if abs(value) < 1e7 else str(value)


def _splits(splits: object) -> Iterator[blocks.Table]:
    if not isinstance(splits, Mapping) or not splits:
        return
    flat = {str(name): dict(_flat(split)) for name, split in splits.items()}
    labels = dict.fromkeys(label for split in flat.values() for label in split)
    yield blocks.Table(
        ["split", *flat],
        [
            [
                (label,),
                *((split.get(label, NO_VALUE),) for split in flat.values()),
            ]
            for label in labels
        ],
    )


def _trainings(data: DataSetResults) -> blocks.Details:
    rows = [
        [
            (cell.name, f"({cell.key})"),
            (str(cell.seed),),
            (cell.status,),
            (digits(cell.gauc, 4),),
            (digits(cell.train_seconds, 0),),
        ]
        for cell in data.cells
    ]
    return blocks.Details(
        f"All {len(rows)} trainings",
        [
            blocks.Table(
                ["training (key)", "seed", "state", "GAUC", "seconds"], rows
            )
        ],
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _joined(values: object) -> str:
    if not isinstance(values, list | tuple):
        return ""
    return ", ".join(map(str, values))
