"""Collects the content of the report as JSON values."""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow_model_analysis as tfma

from muse_keras.tables import ItemTable
from muse_tools.compare.scores import gauc_intervals
from muse_tools.datasets import search_tables, user_lookup
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.raw_tables import RawTables
from muse_tools.demo import ranked_request
from muse_tools.explore.model import ExplainedModel
from muse_tools.report import scores as scores_lib
from muse_tools.report import summary, weights
from muse_tools.report.curves import training_curve
from schemas.ranking_schema import RankingSchema
from tfx_pipeline import config as config_lib
from tfx_pipeline.components import item_embeddings
from tfx_pipeline.components.artifacts import TABLE_DIR
from tfx_pipeline.components.rejected_rows import COUNTS_FILE
from tfx_pipeline.evaluation import slices
from tfx_pipeline.evaluation.ranking_metrics import METRICS, ranking_metrics
from tfx_pipeline.matching import settings as matching_settings
from tfx_pipeline.runs import lineage, verdict
from tfx_pipeline.scl import trainer as scl_trainer
from tfx_pipeline.tfx_internals import path_utils
from tfx_pipeline.training.trainer import CURVES_FILE, RUN_FILE

Report = Callable[[str], None]

_PACKAGES = (
    "tensorflow",
    "keras",
    "tfx",
    "tensorflow-transform",
    "tensorflow-model-analysis",
    "apache-beam",
    "numpy",
)
_EXPLAINED_REQUESTS = 300
_RETRIEVED = 8


def collect(
    config: config_lib.PipelineConfig, report: Report
) -> dict[str, Any]:
    """Collects the numbers of the newest run of every model type.

    A section without data is None.

    Raises:
        DataError: if the pipeline has not trained a model.
    """
    # Sorting puts the baseline (din) first.
    runs = dict(sorted(lineage.model_runs(config).items()))
    if not runs:
        raise DataError(
            "NO_MODEL",
            f"pipeline {config.name} has not trained a model.",
            "run it with `muse pipeline run`.",
        )
    examples = lineage.latest_output(config, "RequestExampleGen", "examples")
    files = sorted((examples / "Split-eval").glob("*.gz"))
    exports = {
        name: pathlib.Path(path_utils.serving_model_path(str(run.model_dir)))
        for name, run in runs.items()
    }
    declared = RawTables.open(config.data.raw_dir).declared
    report("Scoring the eval split for the paired comparison")
    scores = scores_lib.score_models(
        exports, files, config.root / "report_scores.npz"
    )
    models = {
        name: {
            **ranking_metrics(
                scores["user_id"],
                scores["clicks"],
                scores[name],
                config.evaluator.bootstrap_samples,
            ),
            **_evaluated(run.evaluation_dir, declared),
            "reliability": scores_lib.calibration(
                scores["clicks"], scores[name]
            ),
            "origins": lineage.origins(config, run.model_dir),
            "curve": training_curve(run.run_dir / CURVES_FILE),
            "settings": run.settings,
            "run": _read_json(run.run_dir, RUN_FILE),
            "learned": weights.learned_weights(exports[name]),
            "pushed_to": run.pushed_to and run.pushed_to.name,
            "not_pushed": verdict.of_model(run).reason,
            "verdict": str(verdict.of_model(run)),
            "serving": _read_json(run.infra_blessing_dir, "report.json"),
        }
        for name, run in runs.items()
    }
    found: dict[str, Any] = {
        "pipeline": config.name,
        "declared": _declared(declared),
        "models": models,
        "difference": None,
        "tiers": None,
        "example": None,
        "ranked": _ranked(config, runs.get("muse")),
        "embeddings": _embeddings(config, files),
        "matching": _matching(config),
        "data": _data(config),
        "summary": summary.of_statistics(
            lineage.latest_output(config, "StatisticsGen", "statistics")
        ),
        "executions": lineage.last_executions(config),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
    }
    if {"din", "muse"} <= set(models):
        found["difference"] = paired_difference(
            scores["user_id"],
            scores["clicks"],
            scores["muse"],
            scores["din"],
            config.evaluator.bootstrap_samples,
        )
    if "muse" in exports:
        report("Explaining requests of the eval split")
        found["tiers"] = scores_lib.tier_histograms(
            exports["muse"], files, _EXPLAINED_REQUESTS
        )
        found["example"] = _worked_example(
            exports["muse"], pathlib.Path(config.data.raw_dir)
        )
    return found


def paired_difference(
    user_ids: np.ndarray,
    clicks: np.ndarray,
    scores: np.ndarray,
    baseline: np.ndarray,
    samples: int,
) -> dict[str, float | None]:
    """Returns the difference of two models' GAUC on the same users.

    Both use the same resamples of users, so that differences in difficulty
    between users cancel. ``lower`` and ``upper`` are a 95 % interval.
    """
    terms = [(1.0, scores), (-1.0, baseline)]
    found = gauc_intervals(user_ids, clicks, terms, samples)
    return found.model_dump(include={"value", "lower", "upper"})


def _evaluated(
    folder: pathlib.Path | None, declared: RankingSchema
) -> dict[str, Any]:
    """Returns the results of the Evaluator.

    ``slices`` has rows of the first label by slice; ``labels`` has the metrics
    and ``slices`` of all other labels.
    """
    if folder is None:
        return {"slices": {}, "labels": {}}
    found: dict[str, dict[str, Any]] = {}
    result = tfma.load_eval_result(str(folder))
    for key, outputs in result.slicing_metrics:
        for output, metrics in outputs.items():
            row = {
                # TFMA returns NaN as a text.
                name: float(metrics[""][name].get("doubleValue", "nan"))
                for name in METRICS
                if name in metrics[""]
            }
            of = found.setdefault(output, {"slices": {}})
            if not key:
                of |= row
                continue
            ((name, group),) = key
            of["slices"].setdefault(name, {})[group] = row
    for of in found.values():
        of["slices"] = {
            name: [
                {"bucket": slices.shown(name, group, declared), **row}
                for group, row in slices.ordered(name, groups)
            ]
            for name in _sliced_by(result.config)
            if (groups := of["slices"].get(name))
        }
    first = found.pop("", {"slices": {}})
    return {"slices": first["slices"], "labels": found}


def _sliced_by(config: tfma.EvalConfig) -> list[str]:
    return [key for one in config.slicing_specs for key in one.feature_keys]


def _declared(declared: RankingSchema) -> dict[str, Any]:
    """Returns the data set's name, labels and features with their kinds."""
    groups = {
        name: getattr(declared.features, name)
        for name in ("user", "item", "context", "candidate")
    }
    features = declared.features
    return {
        "name": declared.name,
        "digest": declared.digest(),
        "labels": list(declared.labels),
        "features": {
            **{
                group: {name: one.kind for name, one in of.items()}
                for group, of in groups.items()
            },
            "behavior": {
                name: features.of_behavior(name).kind
                for name in features.behavior
            },
        },
        "matches": list(features.matches),
    }


def _data(config: config_lib.PipelineConfig) -> dict[str, Any]:
    return {
        "requests": _read_json(config.rejected_dir / "requests", COUNTS_FILE),
        "items": _read_json(config.rejected_dir / "items", COUNTS_FILE),
        **{
            name: None
            if config.item_embeddings == "imported"
            else _read_json(config.rejected_dir / name, COUNTS_FILE)
            for name in search_tables.TABLES
        },
        "source": _read_json(pathlib.Path(config.data.raw_dir), "dataset.json"),
    }


def _embeddings(
    config: config_lib.PipelineConfig, files: list[pathlib.Path]
) -> dict[str, Any]:
    """Returns the source, coverage and evaluation of the item vectors."""
    table = lineage.latest_output(config, "ItemTableGen", "item_table")
    found: dict[str, Any] = {
        "source": config.item_embeddings,
        "coverage": summary.coverage(files, ItemTable.open(table / TABLE_DIR)),
        "evaluation": None,
        "run": None,
        "report": None,
    }
    maker = {"learned": "ItemEmbedder", "text_svd": "TextEmbedder"}.get(
        config.item_embeddings
    )
    if maker:
        folder = lineage.latest_output(config, maker, "embeddings")
        found["report"] = _read_json(folder, item_embeddings.REPORT_FILE)
    if config.item_embeddings == "learned":
        folder = lineage.latest_output(config, "SCLTrainer", "model_run")
        found["evaluation"] = _read_json(folder, scl_trainer.EVALUATION_FILE)
        found["run"] = _read_json(folder, scl_trainer.RUN_FILE)
    return found


def _matching(config: config_lib.PipelineConfig) -> dict[str, Any] | None:
    """Returns the recall of held-out clicks of the retrieval model."""
    if not config.matching.enabled:
        return None
    folder = lineage.latest_output(config, "MatchingGen", "evaluation")
    return _read_json(folder, matching_settings.EVALUATION_FILE)


def _ranked(
    config: config_lib.PipelineConfig, run: lineage.ModelRun | None
) -> dict[str, Any] | None:
    """Returns the demo's ranking request if the newest model answered it."""
    sent = _read_json(config.root, ranked_request.FILE)
    if sent is None or run is None or run.pushed_to is None:
        return None
    return sent if sent["model_version"] == run.pushed_to.name else None


def _worked_example(
    export: pathlib.Path, directory: pathlib.Path
) -> dict[str, Any]:
    """Returns the ranking of one request, and why its best candidate won."""
    request = user_lookup.pick_request(directory)
    history = np.asarray(request.behavior_item_ids)
    candidates = [int(item) for item in request.candidate_item_ids]
    names = user_lookup.item_names(directory, [*candidates, *map(int, history)])
    user = {
        "user_id": request.user_id,
        "user": request.user,
        "behavior_item_ids": history,
        "behaviors": request.behaviors,
    }
    answer = ExplainedModel(export).explain(user, candidates)

    def name(item: int) -> str:
        return names.get(item, f"item {item}")

    order = np.argsort(-answer["click_probability"], kind="stable")
    best = int(order[0])
    retrieved: dict[int, dict[str, Any]] = {}
    for place, position in enumerate(answer["behavior_indices"][best]):
        similarity = float(answer["similarities"][best, place])
        if position < 0 or (place and not similarity):
            break
        item = int(history[position])
        row = retrieved.setdefault(
            item,
            {
                "name": name(item),
                "similarity": similarity,
                "attention": 0.0,
                "times": 0,
                "ago": len(history) - int(position),
            },
        )
        row["attention"] += float(answer["attention"][best, place])
        row["times"] += 1
        row["ago"] = min(row["ago"], len(history) - int(position))
    return {
        "user_id": request.user_id,
        "history": len(history),
        "recent": [name(int(item)) for item in history[::-1][:_RETRIEVED]],
        "candidates": [
            {
                "name": name(candidates[index]),
                "click_probability": float(answer["click_probability"][index]),
            }
            for index in order
        ],
        "retrieved": list(retrieved.values())[:_RETRIEVED],
    }


def _read_json(folder: pathlib.Path | None, name: str) -> Any:
    if folder is None or not (folder / name).exists():
        return None
    return json.loads((folder / name).read_text(encoding="utf-8"))
