"""The paper's tables from finished cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfx_pipeline.compare import groups as groups_lib
from tfx_pipeline.compare.config import CompareConfig
from tfx_pipeline.compare.grid import Column, Method, Section
from tfx_pipeline.compare.results import Group, GroupTable, Row, Table
from tfx_pipeline.compare.scores import Judge, Term

__all__ = ["group_tables", "table"]

_PAPER = {
    "overall": "Table 5",
    "gsu": "Tables 1 and 2",
    "esu": "Table 3",
    "history": "Fig. 5",
    "representation": "Fig. 2",
    "activity": "Fig. 6, users",
    "popularity": "Fig. 6, items",
}


def table(section: Section, judge: Judge, max_history: int) -> Table:
    """Returns one table.

    Args:
        section: its rows.
        judge: of the finished cells.
        max_history: behaviours that the pipeline keeps.
    """
    rows = [
        _row(column, baseline, section.seeds, judge, max_history)
        for column, baseline in section.rows
    ]
    return Table(name=section.name, paper=_PAPER[section.name], rows=rows)  # type: ignore[arg-type]


def _row(
    column: Column,
    baseline: Column | None,
    seeds: Sequence[int],
    judge: Judge,
    max_history: int,
) -> Row:
    gsu, esu = column.method.parts
    missing = judge.missing(column, seeds)
    found = [judge.cells[column, s].metrics for s in seeds if not missing]

    def mean(name: str) -> float | None:
        values = [cell[name] for cell in found]
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
    """Returns the overall table's finished methods by group.

    Args:
        config: of the comparison.
        judge: of the finished cells, with the groups' masks.
    """
    finished = [
        Column(Method(name))
        for name in config.methods
        if not judge.missing(Column(Method(name)), config.seeds)
    ]
    if not finished:
        return []
    baseline = Column(Method("din"))
    if baseline not in finished:
        baseline = finished[0]
    found = []
    for kind, bounds in (
        ("activity", config.activity_bounds),
        ("popularity", config.popularity_bounds),
    ):
        rows = []
        for name in groups_lib.names(kind, bounds):
            first = judge.users(finished[0], config.seeds[0], name)
            rows.append(
                Group(
                    name=name,
                    users=int((first.weight > 0).sum()),
                    impressions=judge.size(name),
                    gauc={
                        column.method.name: judge.difference(
                            [Term(1, column, name)], config.seeds
                        )
                        for column in finished
                    },
                    gain={
                        column.method.name: judge.difference(
                            [Term(1, column, name), Term(-1, baseline, name)],
                            config.seeds,
                        )
                        for column in finished
                        if column != baseline
                    },
                )
            )
        found.append(
            GroupTable(
                name=kind,  # type: ignore[arg-type]
                paper=_PAPER[kind],
                baseline=baseline.method.name,
                seeds=list(config.seeds),
                groups=rows,
            )
        )
    return found
