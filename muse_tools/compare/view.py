"""The results of a comparison as blocks of a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from muse_tools.compare import protocol_blocks, table_blocks
from muse_tools.compare.claims import RULE
from muse_tools.compare.results import (
    Claim,
    DataSetResults,
    GroupTable,
    Results,
    Row,
    Table,
)
from muse_tools.compare.vectors_view import vectors_view
from muse_tools.compare.words import TABLES, difference, sentence
from muse_tools.pages import blocks
from muse_tools.pages.blocks import Block

Training = Callable[[str, DataSetResults], list[blocks.Chart]]

_BEST: Final = 3
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
    """Returns the page of a comparison: title, sizes and `results_view`."""
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
    """Returns the weeks of the data as text, "" if they are not known."""
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

    `training` is a function that returns charts of a data set's trainings.
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
    """Returns the main results in a few sentences."""
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
            found = difference("MUSE", row.difference)
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
        yield from table_blocks.method_table(table)
    for group_table in data.groups:
        yield from _headed(group_table, prefix)
        yield from table_blocks.group_table(group_table)
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
        f"{sentence(RULE)}. A difference above 0 supports the claim. Every "
        "claim has its own axis.",
        "soft",
    )
    yield from map(_claim, data.claims)
    yield blocks.Heading("Protocol and data", 3, f"{prefix}protocol")
    yield from protocol_blocks.protocol(data, results)


def _headed(table: Table | GroupTable, prefix: str) -> Iterator[Block]:
    about = TABLES[table.name]
    paper = f"paper: {table.paper}" if table.paper else ""
    yield blocks.Heading(about["title"], 3, prefix + table.name, paper)
    yield blocks.Text(about["text"])


def _claim(claim: Claim) -> blocks.Claim:
    return blocks.Claim(
        claim.text,
        claim.status,
        sentence(claim.reason),
        _STATUSES[claim.status],  # type: ignore[arg-type]
        [difference(one.name, one.difference) for one in claim.contrasts],
    )
