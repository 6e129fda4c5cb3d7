"""The whole comparison: prepare, train what is missing, make the tables."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from muse_tools.compare import (
    claims,
    groups,
    keys,
    locks,
    plan,
    progress,
    tables,
    vectors,
    worker,
)
from muse_tools.compare import data as data_lib
from muse_tools.compare.config import CompareConfig
from muse_tools.compare.grid import Cell, expand, sections
from muse_tools.compare.impressions import Impressions
from muse_tools.compare.markdown import to_markdown
from muse_tools.compare.results import (
    SCHEMA_VERSION,
    CellRecord,
    DataSetResults,
    Results,
    VectorsTable,
)
from muse_tools.compare.scores import Judge, finite, read_cell
from serving.files import write_text

__all__ = ["collect", "compare", "train_cells", "write_results"]

Report = Callable[[str], None]

RESULTS_FILE = "results.json"
MARKDOWN_FILE = "results.md"
_PACKAGES = ("tensorflow", "keras", "numpy", "tfx")
_POLL_S = 0.5


def compare(
    config: CompareConfig,
    report: Report,
    *,
    workers: int = 2,
    quick: bool = False,
    command: str = "muse compare",
) -> Results:
    """Runs a comparison, or what is left of it.

    Args:
        config: what is compared.
        report: receives one line per event.
        workers: processes that train; 0 trains in this one.
        quick: whether the small grid was asked for; for the record.
        command: that was given; for the record.

    Returns:
        The results, which are also in ``results.json`` and ``results.md``.
    """
    cells = expand(config)
    data = {
        name: data_lib.prepare(config, name, report)
        for name in config.data_sets
    }
    made, tasks = plan.make_plan(config.root, cells, data, config.score_batch)
    train_cells(made, report, workers)
    report("Computing intervals and tables")
    looks = {
        name: vectors.vectors_table(config, name, one, report)
        for name, one in data.items()
    }
    results = collect(config, made, tasks, looks, quick=quick, command=command)
    write_results(results, config.root)
    return results


def train_cells(made: plan.Plan, report: Report, workers: int) -> None:
    """Trains the cells that are not finished; earlier failures once more.

    Args:
        made: the plan.
        report: receives one line per event.
        workers: processes; 0 trains in this one.
    """
    for task in made.tasks:
        with locks.try_lock(made.lock(task)) as mine:
            if mine:
                made.failure(task).unlink(missing_ok=True)
    tracker = progress.Tracker(made)
    left = tracker.total - tracker.ended
    report(
        f"{tracker.total} cells, {tracker.ended} finished before, "
        f"{left} to train"
    )
    if not left:
        return
    if not workers:
        from muse_tools.compare.cell import run_cell

        worker.work(made, run_cell)
        return
    path = made.root / f"plan-{os.getpid()}.json"
    made.save(path)
    try:
        _supervise(made, path, tracker, report, min(workers, left))
    finally:
        path.unlink(missing_ok=True)


def _supervise(
    made: plan.Plan,
    path: pathlib.Path,
    tracker: progress.Tracker,
    report: Report,
    workers: int,
) -> None:
    """Keeps workers running until every cell has ended."""
    log = made.root / "logs" / f"workers-{os.getpid()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    running: list[subprocess.Popen[bytes]] = []
    with (
        log.open("ab") as stream,
        progress.shown(tracker, report) as show,
    ):

        def start() -> None:
            running.append(
                subprocess.Popen(
                    _worker_command(path),
                    stdout=stream,
                    stderr=stream,
                    env=_environment(workers),
                )
            )

        try:
            for _ in range(workers):
                start()
            while running:
                time.sleep(_POLL_S)
                show()
                for process in list(running):
                    if process.poll() is None:
                        continue
                    running.remove(process)
                    # Whoever dies with a cell is replaced, and the cell has
                    # failed; so is whoever has trained enough for a process.
                    if process.returncode:
                        goes_on = _blame(made, process)
                    else:
                        goes_on = bool(_open_tasks(made))
                    if goes_on:
                        start()
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()
    if tracker.ended < tracker.total and _open_tasks(made):
        raise RuntimeError(f"the workers ended before their work. Log: {log}")


def _worker_command(path: pathlib.Path) -> list[str]:
    return [sys.executable, "-m", worker.__name__, str(path)]


def _open_tasks(made: plan.Plan) -> list[plan.Task]:
    return [
        task
        for task in made.tasks
        if not made.done(task) and not made.failed(task)
    ]


def _blame(made: plan.Plan, process: subprocess.Popen[bytes]) -> bool:
    """Records the failure of the cell with which a worker died."""
    for task in _open_tasks(made):
        lock = made.lock(task)
        if not lock.exists():
            continue
        if lock.read_text() == str(process.pid):
            worker.record_failure(
                made,
                task,
                f"the process that trained it ended with {process.returncode} "
                "(negative: killed by this signal, -9 often for memory)",
            )
            return True
    return False


def _environment(workers: int) -> dict[str, str]:
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    return {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_NUM_INTRAOP_THREADS": threads,
        "OMP_NUM_THREADS": threads,
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
    }


def collect(
    config: CompareConfig,
    made: plan.Plan,
    tasks: Mapping[Cell, plan.Task],
    looks: Mapping[str, VectorsTable] | None = None,
    *,
    quick: bool = False,
    command: str = "muse compare",
) -> Results:
    """Makes the tables of the cells that are finished.

    Args:
        config: of the comparison.
        made: the plan.
        tasks: the task of every cell.
        looks: what the item vectors tell apart, by data set.
        quick: for the record.
        command: for the record.
    """
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
        reason = worker.read_failure(made, task)
    return CellRecord(
        name=task.name,
        key=task.key,
        seed=cell.seed,
        status="done" if found else "failed" if reason else "missing",
        reason=reason,
        gauc=finite(found.metrics["gauc"]) if found else None,
        train_seconds=found.metrics["train_seconds"] if found else None,
    )


def write_results(results: Results, root: pathlib.Path) -> Sequence[str]:
    """Writes ``results.json`` and ``results.md``; returns their paths."""
    written = []
    for name, text in (
        (RESULTS_FILE, results.model_dump_json(indent=1) + "\n"),
        (MARKDOWN_FILE, to_markdown(results)),
    ):
        write_text(root / name, text)
        written.append(str(root / name))
    return written
