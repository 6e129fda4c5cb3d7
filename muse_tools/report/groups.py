"""Charts of GAUC by group of impressions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from muse_tools.pages.blocks import (
    NO_VALUE,
    Chart,
    Details,
    Line,
    Point,
    Table,
)
from muse_tools.report.labels import digits
from tfx_pipeline.evaluation import slices

_GAUC = ("gauc", "gauc_lower", "gauc_upper")
_KNOWN = {
    slices.HISTORY: (
        "behaviors in the history",
        "GAUC by the number of behaviors in the request.",
    ),
    slices.POPULARITY: (
        "training impressions",
        "GAUC by how often the candidate was shown in training; 0 is a new "
        "item.",
    ),
}


def group_charts(
    models: Mapping[str, Mapping[str, Any]], first_label: str
) -> dict[str, list[Chart | Details]]:
    """Returns charts by label, starting with `first_label`.

    A table with the numbers follows each chart. Labels without any GAUC are
    left out.
    """
    labels = dict.fromkeys(
        label for model in models.values() for label in model.get("labels", {})
    )
    of_labels = {
        first_label: {name: one["slices"] for name, one in models.items()},
        **{
            label: {
                name: one["labels"][label]["slices"]
                for name, one in models.items()
                if label in one.get("labels", {})
            }
            for label in labels
        },
    }
    found = {label: _charts(of) for label, of in of_labels.items()}
    return {label: charts for label, charts in found.items() if charts}


def _charts(
    models: Mapping[str, Mapping[str, Any]],
) -> list[Chart | Details]:
    found: list[Chart | Details] = []
    for name in dict.fromkeys(name for of in models.values() for name in of):
        rows = {model.upper(): of.get(name, []) for model, of in models.items()}
        axis, about = _words(name)
        if chart := _chart(rows, axis, about):
            found += [chart, Details(f"GAUC by {axis}", [_table(rows, axis)])]
    return found


def _table(models: Mapping[str, list[dict[str, Any]]], axis: str) -> Table:
    sizes = {
        row["bucket"]: row.get("impressions")
        for rows in models.values()
        for row in rows
    }
    numbers = {
        model: {
            row["bucket"]: (
                digits(row["gauc"]),
                f"{digits(row['gauc_lower'])} to {digits(row['gauc_upper'])}",
            )
            for row in rows
        }
        for model, rows in models.items()
    }
    return Table(
        [axis, "impressions", *models],
        [
            [
                (group,),
                (NO_VALUE if size is None else f"{size:,.0f}",),
                *(of.get(group, (NO_VALUE,)) for of in numbers.values()),
            ]
            for group, size in sizes.items()
        ],
    )


def _words(name: str) -> tuple[str, str]:
    if name in _KNOWN:
        return _KNOWN[name]
    group, _, feature = name.partition("_")
    of = {"context": "request"}.get(group, group)
    return (
        f"{feature} of the {of}",
        f"GAUC by the feature {feature} of the {of}, as the raw tables have "
        "it: the most frequent values, or ranges of numbers.",
    )


def _chart(
    models: Mapping[str, list[dict[str, Any]]], axis: str, about: str
) -> Chart | None:
    """Returns a chart of GAUC by bucket; None if no bucket has a GAUC."""

    def known(row: Mapping[str, Any]) -> bool:
        values = [row.get(name) for name in _GAUC]
        return all(v is not None and math.isfinite(v) for v in values)

    buckets = dict.fromkeys(
        row["bucket"] for rows in models.values() for row in rows
    )
    without = {
        row["bucket"]
        for rows in models.values()
        for row in rows
        if not known(row)
    }
    names = [bucket for bucket in buckets if bucket not in without]
    if not names:
        return None
    if without:
        left_out = ", ".join(one for one in buckets if one in without)
        about += (
            " Without GAUC, since no user has both clicked and not clicked "
            f"impressions there: {left_out}."
        )
    return Chart(
        f"GAUC with 95 % intervals by {axis}",
        axis,
        "GAUC",
        [
            Line(
                name,
                [
                    Point(names.index(row["bucket"]), *(row[v] for v in _GAUC))
                    for row in rows
                    if row["bucket"] in names
                ],
            )
            for name, rows in models.items()
        ],
        about,
        "dots",
        names,
    )
