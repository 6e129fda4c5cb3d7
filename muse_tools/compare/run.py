"""Runs a comparison: prepares data, trains missing cells, makes tables."""

from __future__ import annotations

import importlib.metadata
import pathlib
import platform
from collections.abc import Callable, Mapping

from muse_tools.compare import (
    claims,
    groups,
    keys,
    plan,
    tables,
    training,
    vectors,
)
from muse_tools.compare import data as data_lib
from muse_tools.compare.config import CompareConfig
from muse_tools.compare.grid import Cell, expand, sections
from muse_tools.compare.impressions import Impressions
from muse_tools.compare.results import (
    SCHEMA_VERSION,
    CellRecord,
    DataSetResults,
    Results,
    VectorsTable,
)
from muse_tools.compare.scores import Judge, finite, read_cell
from muse_tools.compare.view import comparison_view
from muse_tools.pages.markdown import to_markdown
from serving.files import write_text

Report = Callable[[str], None]

RESULTS_FILE = "results.json"
MARKDOWN_FILE = "results.md"
_PACKAGES = ("tensorflow", "keras", "numpy", "tfx")


def compare(
    config: CompareConfig,
    report: Report,
    *,
    workers: int = 2,
    quick: bool = False,
    command: str = "muse compare",
) -> Results:
    """Runs a comparison and writes its results; finished cells are reused."""
    cells = expand(config)
    data = {
        name: data_lib.prepare(config, name, report)
        for name in config.data_sets
    }
    made, tasks = plan.make_plan(config.root, cells, data, config.score_batch)
    training.train_cells(made, report, workers)
    report("Computing intervals and tables")
    looks = {
        name: vectors.vectors_table(config, name, one, report)
        for name, one in data.items()
    }
    results = collect(config, made, tasks, looks, quick=quick, command=command)
    write_results(results, config.root)
    return results


def collect(
    config: CompareConfig,
    made: plan.Plan,
    tasks: Mapping[Cell, plan.Task],
    looks: Mapping[str, VectorsTable] | None = None,
    *,
    quick: bool = False,
    command: str = "muse compare",
) -> Results:
    """Makes the tables from the finished cells."""
    return Results(
        schema_version=SCHEMA_VERSION,
        name=config.name,
        command=command,
        quick=quick,
        bootstrap_samples=config.bootstrap_samples,
        code=keys.code_digest(),
        versions={
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        settings=config.model_dump(
            mode="json", exclude={"output_dir", "data_sets"}
        ),
        data_sets={
            name: _data_set(
                config,
                made,
                {c: task for c, task in tasks.items() if c.data_set == name},
                name,
                (looks or {}).get(name),
            )
            for name in config.data_sets
        },
    )


def _data_set(
    config: CompareConfig,
    made: plan.Plan,
    tasks: Mapping[Cell, plan.Task],
    name: str,
    look: VectorsTable | None,
) -> DataSetResults:
    data = made.data[name]
    impressions = Impressions.load(pathlib.Path(data.impressions))
    stored = {
        cell: read_cell(made.folder(task)) for cell, task in tasks.items()
    }
    judge = Judge(
        impressions,
        {
            (cell.column, cell.seed): found
            for cell, found in stored.items()
            if found is not None
        },
        groups.masks(
            impressions, config.activity_bounds, config.popularity_bounds
        ),
        config.bootstrap_samples,
    )
    return DataSetResults(
        description=data.description,
        max_history=data.max_history,
        users=len(set(impressions.user_ids.tolist())),
        impressions=len(impressions.clicks),
        clicks=int(impressions.clicks.sum()),
        tables=[
            tables.table(section, judge, data.max_history)
            for section in sections(config)
        ],
        groups=tables.group_tables(config, judge),
        claims=claims.judge_claims(config, judge),
        vectors=look,
        cells=[
            _record(made, task, cell, judge) for cell, task in tasks.items()
        ],
    )


def _record(
    made: plan.Plan, task: plan.Task, cell: Cell, judge: Judge
) -> CellRecord:
    found = judge.cells.get((cell.column, cell.seed))
    failure = made.failure(task)
    reason = None
    if found is None and failure.is_file():
        reason = training.read_failure(made, task)
    return CellRecord(
        name=task.name,
        key=task.key,
        seed=cell.seed,
        status="done" if found else "failed" if reason else "missing",
        reason=reason,
        gauc=finite(found.metrics["gauc"]) if found else None,
        train_seconds=found.metrics["train_seconds"] if found else None,
    )


def write_results(results: Results, root: pathlib.Path) -> None:
    """Writes ``results.json`` and ``results.md``."""
    write_text(root / RESULTS_FILE, results.model_dump_json(indent=1) + "\n")
    write_text(root / MARKDOWN_FILE, to_markdown(comparison_view(results)))
