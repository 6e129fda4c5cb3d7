"""Computes the paper's tables from finished cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from muse_tools.compare import groups as groups_lib
from muse_tools.compare.config import BASE_EMBEDDINGS, CompareConfig
from muse_tools.compare.grid import MUSE, Column, Method, Section
from muse_tools.compare.results import Group, GroupTable, Row, Table
from muse_tools.compare.scores import LISTS, Judge, Term
from muse_tools.compare.words import TABLES


def table(section: Section, judge: Judge, max_history: int) -> Table:
    """Returns one table."""
    rows = [
        _row(column, baseline, section, judge, max_history)
        for column, baseline in section.rows
    ]
    paper = TABLES[section.name]["paper"]
    return Table(name=section.name, paper=paper, rows=rows)  # type: ignore[arg-type]


def _row(
    column: Column,
    baseline: Column | None,
    section: Section,
    judge: Judge,
    max_history: int,
) -> Row:
    seeds = section.seeds
    gsu, esu = column.method.parts
    missing = judge.missing(column, seeds)
    found = [judge.cells[column, s].metrics for s in seeds if not missing]

    def mean(name: str) -> float | None:
        # A cell of an earlier version has fewer metrics.
        values = [cell.get(name, np.nan) for cell in found]
        if not values or not np.isfinite(values).all():
            return None
        return round(float(np.mean(values)), 6)

    comparable = baseline is not None and not (
        missing or judge.missing(baseline, seeds)
    )
    return Row(
        name=column.method.name,
        gsu=gsu,
        esu=esu,
        embeddings=column.embeddings,
        history=column.history or max_history,
        seeds=list(seeds),
        missing=missing,
        gauc=None if missing else judge.difference([Term(1, column)], seeds),
        baseline=_label(baseline, max_history) if baseline else None,
        difference=(
            judge.difference([Term(1, column), Term(-1, baseline)], seeds)
            if baseline is not None and comparable
            else None
        ),
        auc=mean("auc"),
        log_loss=mean("log_loss"),
        calibration=mean("calibration"),
        lists={
            name: judge.difference([Term(1, column)], seeds, name)
            for name in LISTS
            if section.name == "overall" and not missing
        },
        normalized_entropy=mean("normalized_entropy"),
        calibration_error=mean("calibration_error"),
        parameters=found[0]["parameters"] if found else None,
        parameters_without_tables=(
            found[0]["parameters_without_tables"] if found else None
        ),
        train_seconds=mean("train_seconds"),
    )


def _label(column: Column, max_history: int) -> str:
    return (
        f"{column.method.name}, vectors {column.embeddings}, "
        f"history {column.history or max_history}"
    )


def group_tables(config: CompareConfig, judge: Judge) -> list[GroupTable]:
    """Returns tables of finished methods and of MUSE's vectors by group."""
    methods = {
        column.method.name: column
        for column in (Column(Method.parse(name)) for name in config.methods)
        if not judge.missing(column, config.seeds)
    }
    vectors = {
        (f"MUSE, {name}" if name != BASE_EMBEDDINGS else "MUSE"): column
        for name, column in (
            (name, Column(MUSE, name))
            for name in (BASE_EMBEDDINGS, *config.embeddings)
        )
        if not judge.missing(column, config.ablation_seeds)
    }
    found = []
    if methods:
        first = next(iter(methods))
        din = "DIN" if "DIN" in methods else first
        # The baseline of groups by repetition is a search by id embeddings.
        ids = "SIM-soft" if "SIM-soft" in methods else din
        found = [
            _group_table(
                kind,
                groups_lib.names(kind, bounds),
                methods,
                baseline,
                judge,
                config.seeds,
            )
            for kind, bounds, baseline in (
                ("activity", config.activity_bounds, din),
                ("popularity", config.popularity_bounds, din),
                ("repetition", groups_lib.REPETITION_BOUNDS, ids),
            )
        ]
    if len(vectors) > 1 and "MUSE" in vectors:
        found.append(
            _group_table(
                "repetition_vectors",
                groups_lib.names("repetition", groups_lib.REPETITION_BOUNDS),
                vectors,
                "MUSE",
                judge,
                config.ablation_seeds,
            )
        )
    return found


def _group_table(
    name: str,
    groups: Sequence[str],
    columns: Mapping[str, Column],
    baseline: str,
    judge: Judge,
    seeds: Sequence[int],
) -> GroupTable:
    base = columns[baseline]
    rows = []
    for group in groups:
        first = judge.users(base, seeds[0], group)
        rows.append(
            Group(
                name=group,
                users=int((first.weight > 0).sum()),
                impressions=judge.size(group),
                gauc={
                    label: judge.difference([Term(1, column, group)], seeds)
                    for label, column in columns.items()
                },
                gain={
                    label: judge.difference(
                        [Term(1, column, group), Term(-1, base, group)], seeds
                    )
                    for label, column in columns.items()
                    if label != baseline
                },
            )
        )
    return GroupTable(
        name=name,  # type: ignore[arg-type]
        paper=TABLES[name]["paper"],
        baseline=baseline,
        seeds=list(seeds),
        groups=rows,
    )
