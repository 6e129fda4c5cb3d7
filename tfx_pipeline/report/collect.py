"""Collects everything a report says from the outputs of a pipeline."""

from __future__ import annotations

import datetime
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from muse_keras.metrics import per_group_auc
from tfx.utils import path_utils

from tfx_pipeline import config as config_lib
from tfx_pipeline import features, lineage
from tfx_pipeline.cli.user_lookup import item_names
from tfx_pipeline.data import dataset_dir, inspect
from tfx_pipeline.data.errors import DataError
from tfx_pipeline.evaluation import extractors, ranking_metrics
from tfx_pipeline.report import provenance, retrieval, scoring, statistics
from tfx_pipeline.report.contents import ModelResult, Report

__all__ = ["collect"]

_ORDER = ("din", "muse")
_SAMPLE = 256
_SAMPLE_SEED = 7
_UNTRAINED = ("table.", "vocabulary.", "item_features.")
_EXPORT_FILE = pathlib.Path("assets.extra", "muse_export.json")
# The Evaluator scores in other batches; float32 sums differ in the last bits.
_SAME_GAUC = 1e-4

ReportProgress = Callable[[str], None]


def collect(
    config: config_lib.PipelineConfig,
    cache: pathlib.Path,
    report_progress: ReportProgress,
) -> Report:
    """Reads, scores and computes.

    Args:
        config: a pipeline that has run.
        cache: file for the scores.
        report_progress: told about the work.

    Returns:
        The contents of the report.

    Raises:
        DataError: no model has been trained yet.
    """
    runs = lineage.model_runs(config)
    runs = {
        name: runs[name]
        for name in (*_ORDER, *sorted(runs.keys() - set(_ORDER)))
        if name in runs
    }
    if not runs:
        raise DataError(
            "NO_MODEL",
            f"pipeline {config.name} has not trained a model.",
            "train one with `muse pipeline run`.",
        )
    served = {
        name: pathlib.Path(path_utils.serving_model_path(str(run.model_dir)))
        for name, run in runs.items()
    }
    examples = lineage.latest_output(config, "RequestExampleGen", "examples")
    requests = scoring.Requests(examples / f"Split-{features.EVAL_SPLIT}")
    data = scoring.score(requests, served, cache, report_progress)

    report_progress("Computing intervals")
    samples = config.evaluator.bootstrap_samples
    users = {
        name: per_group_auc(data.clicks, scores, data.users)
        for name, scores in data.scores.items()
    }
    histories = provenance.trace(config, runs)
    models = [
        _model_result(run, served[name], data, samples, histories[name])
        for name, run in runs.items()
    ]
    difference = (
        statistics.paired_difference(users["din"], users["muse"], samples)
        if {"din", "muse"} <= users.keys()
        else None
    )

    report_progress("Explaining a sample of requests")
    explained = "muse" if "muse" in runs else next(iter(runs))
    drawn = np.random.default_rng(_SAMPLE_SEED).choice(
        len(requests.serialized),
        min(_SAMPLE, len(requests.serialized)),
        replace=False,
    )
    sample = requests.parse(drawn)
    answers = scoring.explain(served[explained], sample)
    raw_dir = pathlib.Path(config.data.raw_dir).expanduser()

    report_progress("Summarising the data")
    notes = _notes(models, histories)
    made = dataset_dir.read_description(raw_dir)
    return Report(
        title=config.name,
        created=datetime.datetime.now(datetime.timezone.utc).strftime(
            "%Y-%m-%d %H:%M UTC"
        ),
        users=max(len(one.auc) for one in users.values()),
        impressions=len(data.clicks),
        requests=data.requests,
        bootstrap_samples=samples,
        models=models,
        difference=difference,
        notes=notes,
        data=_data_rows(raw_dir, notes),
        counts=_counts(config.rejected_dir),
        policy=[
            (str(rule), str(text))
            for rule, text in made.get("policy", {}).items()
        ],
        by_history=statistics.slice_rows(
            data,
            data.history,
            extractors.HISTORY_BOUNDS,
            extractors.bucket_names(extractors.HISTORY_BOUNDS),
            samples,
        ),
        by_popularity=statistics.slice_rows(
            data,
            data.popularity,
            extractors.POPULARITY_BOUNDS,
            extractors.bucket_names(extractors.POPULARITY_BOUNDS),
            samples,
        ),
        tiers=retrieval.tier_histogram(explained, sample, answers),
        example=retrieval.worked_example(
            explained, sample, answers, lambda ids: item_names(raw_dir, ids)
        ),
        lineage=[
            ("raw tables", str(raw_dir)),
            ("eval requests", str(examples)),
            *(
                (f"data {key}", str(made[key]))
                for key in ("name", "generator_version", "parameters")
                if key in made
            ),
            *provenance.versions(),
        ],
    )


def _model_result(
    run: lineage.ModelRun,
    served: pathlib.Path,
    data: statistics.Impressions,
    samples: int,
    history: provenance.History,
) -> ModelResult:
    scores = data.scores[run.model_type]
    users = per_group_auc(data.clicks, scores, data.users)
    # One resample: the interval comes from `gauc_interval`.
    metrics = ranking_metrics.ranking_metrics(
        data.users, data.clicks, scores, 1
    )
    interval = statistics.gauc_interval(users, samples)
    if interval is None:
        raise DataError(
            "NO_GAUC",
            "no user of the eval split has both clicks and non-clicks.",
            "evaluate on more impressions.",
        )
    export = _read_json(served / _EXPORT_FILE)
    steps, losses = _curve(run.run_dir / "training.jsonl")
    validation = (
        _read_json(run.infra_blessing_dir / "report.json")
        if run.infra_blessing_dir
        else {}
    )
    return ModelResult(
        name=run.model_type,
        gauc=interval,
        auc=metrics["auc"],
        log_loss=metrics["log_loss"],
        calibration=metrics["calibration"],
        parameters=_parameters(export),
        training_seconds=history.training_seconds,
        evaluator_gauc=_evaluator_gauc(run.evaluation_dir),
        loss_curve=statistics.smooth(steps, losses),
        lineage=[
            ("model", str(run.model_dir)),
            ("served from", str(run.pushed_to or "not pushed")),
            (
                "served scores",
                validation.get("verdict", "not compared in a server"),
            ),
            *history.facts,
            *(
                (section, _settings(run.settings[section]))
                for section in ("model", "trainer", "transform")
                if section in run.settings
            ),
        ],
    )


def _settings(section: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in section.items())


def _parameters(export: dict[str, Any]) -> int | None:
    """Counts the trained values in an export's manifest."""
    variables = export.get("variables")
    if not variables:
        return None
    return sum(
        math.prod(variable["shape"])
        for name, variable in variables.items()
        if not name.startswith(_UNTRAINED) and ".moving_" not in name
    )


def _curve(path: pathlib.Path) -> tuple[list[int], list[float]]:
    if not path.exists():
        return [], []
    lines = [
        json.loads(line)
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return [one["step"] for one in lines], [one["loss"] for one in lines]


def _evaluator_gauc(directory: pathlib.Path | None) -> float | None:
    if directory is None:
        return None
    import tensorflow_model_analysis as tfma

    for key, metrics in tfma.load_eval_result(str(directory)).slicing_metrics:
        if key == ():
            value = metrics.get("", {}).get("", {}).get("gauc", {})
            return value.get("doubleValue")
    return None


def _notes(
    models: list[ModelResult], histories: dict[str, provenance.History]
) -> list[str]:
    """Returns what makes a comparison less than clean."""
    notes = []
    for model in models:
        stored = model.evaluator_gauc
        if stored is not None and abs(stored - model.gauc.value) > _SAME_GAUC:
            notes.append(
                f"The Evaluator recorded GAUC {stored:.4f} for "
                f"{model.name.upper()}; on the current eval split it is "
                f"{model.gauc.value:.4f}."
            )
    data = {name: one.data for name, one in histories.items()}
    if len(set(data.values())) > 1:
        notes.append(
            "The models were trained on different versions of the raw "
            "tables ("
            + ", ".join(f"{name.upper()}: {one}" for name, one in data.items())
            + "). Both are scored on the newest eval split; train both again "
            "for a clean comparison."
        )
    if len(models) == 2:
        notes.append(
            "The intervals cover the choice of users, not the randomness of "
            "training: each model was trained once, with one seed."
        )
    return notes


def _counts(directory: pathlib.Path) -> list[tuple[str, int]]:
    return [
        (f"{path.parent.name}: {name}", int(number))
        for path in sorted(directory.glob("*/counts.json"))
        for name, number in _read_json(path).items()
    ]


def _data_rows(
    raw_dir: pathlib.Path, notes: list[str]
) -> list[tuple[str, str, str]]:
    """Returns the data summary of both splits, as text."""
    try:
        found = inspect.inspect(raw_dir)
    except DataError as error:
        notes.append(f"The raw tables could not be read: {error.message}")
        return []
    rows: list[tuple[str, str, str]] = []
    samples, users = found["samples"], found["users"]

    def add(label: str, read: Callable[[str], str]) -> None:
        values = []
        for split in ("train", "test"):
            try:
                values.append(read(split))
            except (KeyError, TypeError):
                values.append("–")
        rows.append((label, values[0], values[1]))

    add("Users", lambda s: f"{samples[s]['users']:,}")
    add("Impressions", lambda s: f"{samples[s]['accepted']:,}")
    add("Clicks", lambda s: f"{samples[s]['clicks']:,}")
    add("Click rate", lambda s: f"{samples[s]['click_rate']:.2%}")
    add("Distinct candidates", lambda s: f"{samples[s]['items']:,}")
    add(
        "Candidates with a vector",
        lambda s: f"{samples[s]['candidates_with_embedding']:.2%}",
    )
    add(
        "History length, median",
        lambda s: f"{users[s]['history_length']['p50']:,.0f}",
    )
    add(
        "History length, 10–90 %",
        lambda s: (
            f"{users[s]['history_length']['p10']:,.0f}–"
            f"{users[s]['history_length']['p90']:,.0f}"
        ),
    )
    add("Empty histories", lambda s: f"{users[s]['empty_histories']:,}")
    return rows


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
