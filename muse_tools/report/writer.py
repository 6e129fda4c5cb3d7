"""Writes the report: a page for people, and its numbers as JSON."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import markupsafe

from muse_tools.compare.results import Results
from muse_tools.report import charts, comparison_page, templates
from muse_tools.report import comparison as comparison_lib
from muse_tools.report.learned import shown_weights
from serving.client.ranking import Stage
from serving.files import write_json, write_text
from serving.ranking_service import timeline
from tfx_pipeline import config as config_lib
from tfx_pipeline.evaluation import extractors

__all__ = ["Summary", "render", "verdict", "write_report"]

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the report says in a few lines.

    Attributes:
        path: the page.
        found: all its numbers.
    """

    path: pathlib.Path
    found: dict[str, Any]

    def lines(self) -> list[str]:
        """Returns the headline for a terminal."""
        return [
            *(model["verdict"] for model in self.found["models"].values()),
            verdict(self.found),
            *self._recall(),
            *self._compared(),
        ]

    def _compared(self) -> list[str]:
        compared = self.found.get("comparison")
        if compared is None:
            return []
        return comparison_lib.headline(Results.model_validate(compared))

    def _recall(self) -> list[str]:
        evaluation = self.found["embeddings"]["evaluation"]
        if evaluation is None:
            return []
        k = str(evaluation["ks"][-1])
        values = ", ".join(
            f"{name} {scopes['all'][k]['value']:.4f}"
            for name, scopes in evaluation["methods"].items()
        )
        return [f"Item embeddings, recall@{k} of the purchased item: {values}"]


def write_report(
    config: config_lib.PipelineConfig,
    path: pathlib.Path,
    report: Report,
    comparison: Results | None = None,
) -> Summary:
    """Writes the page, and a ``.json`` of the same name beside it.

    Args:
        config: the pipeline to report on.
        path: HTML file to write.
        report: receives one line per event.
        comparison: results of ``muse compare`` to show as well.

    Raises:
        DataError: the pipeline has not trained a model yet.
    """
    # A page of a comparison alone needs no TFX.
    from muse_tools.report.collect import collect

    found = collect(config, report)
    if comparison is not None:
        found["comparison"] = comparison.model_dump(mode="json")
    write_json(path.with_suffix(".json"), found)
    write_text(path, render(found))
    return Summary(path, found)


def verdict(found: dict[str, Any]) -> str:
    """Returns what the comparison shows, in one honest sentence."""
    difference = found["difference"]
    if difference is None:
        only = next(iter(found["models"]))
        return f"Only {only.upper()} was trained, so there is no comparison."
    value, low, high = (difference[key] for key in ("value", "lower", "upper"))
    if value != value:
        return (
            "No comparison: no user of the eval split has both clicked and not "
            "clicked impressions."
        )
    interval = f"(paired 95 % interval {low:+.4f} to {high:+.4f})"
    if low > 0:
        return f"MUSE ranks better than DIN by {value:+.4f} GAUC {interval}."
    if high < 0:
        return f"MUSE ranks worse than DIN by {value:+.4f} GAUC {interval}."
    return (
        f"No difference shown: MUSE minus DIN is {value:+.4f} GAUC {interval}, "
        "which includes zero."
    )


def render(found: dict[str, Any]) -> str:
    """Returns the page for collected values."""
    compared = found.get("comparison")
    source = found["data"]["source"] or {}
    return templates.rendered(
        "page.html.j2",
        found=found,
        first=next(iter(found["models"].values())),
        verdict=verdict(found),
        charts={
            name: svg and markupsafe.Markup(svg)
            for name, svg in _charts(found).items()
        },
        overlap=timeline.overlap(_stages(found)) if found["ranked"] else "",
        data_rows=_data_rows(found["data"]),
        policy=source.get("policy"),
        by_time=_by_time(source.get("parameters", {})),
        left_out={
            "history": _left_out(found["models"], extractors.HISTORY_SLICE),
            "popularity": _left_out(
                found["models"], extractors.POPULARITY_SLICE
            ),
        },
        learned=shown_weights(found["models"]),
        comparison=compared
        and comparison_page.shown(Results.model_validate(compared)),
    )


def _charts(found: dict[str, Any]) -> dict[str, str | None]:
    models = found["models"]
    drawn: dict[str, str | None] = {
        "curves": charts.lines(
            "Training loss of each model over steps",
            "training step",
            {
                name.upper(): (model["curve"]["steps"], model["curve"]["loss"])
                for name, model in models.items()
            },
        ),
        "history": _slice_chart(
            models, extractors.HISTORY_SLICE, "behaviours in the history"
        ),
        "popularity": _slice_chart(
            models, extractors.POPULARITY_SLICE, "training impressions"
        ),
        "calibration": charts.calibration(
            "Observed over predicted click rate of tenths of the impressions, "
            "with 95 % intervals",
            "predicted click rate",
            {
                name.upper(): [
                    (
                        row["predicted"],
                        row["observed"],
                        row["lower"],
                        row["upper"],
                    )
                    for row in model["reliability"]
                ]
                for name, model in models.items()
            },
        ),
        "tiers": None,
        "attention": None,
        "recall": _recall_chart(found["embeddings"]["evaluation"]),
        "ranked": None,
    }
    if found["ranked"]:
        drawn["ranked"] = timeline.as_svg(
            _stages(found), found["ranked"]["total_ms"]
        )
    if found["tiers"]:
        tiers = found["tiers"]
        count = len(tiers["clicked"])
        drawn["tiers"] = charts.bars(
            "Mean number of retrieved behaviours per similarity tier, for "
            "clicked and not clicked candidates",
            "cosine similarity, lower edge of the tier",
            [f"{-1 + 2 * tier / count:.1f}" for tier in range(count)],
            {
                "not clicked": tiers["not_clicked"],
                "clicked": tiers["clicked"],
            },
            every=2,
        )
        drawn["attention"] = _attention_chart(tiers["attention"])
    return drawn


def _attention_chart(weights: list[float | None]) -> str | None:
    """Draws the weight of each tier that has behaviours."""
    seen = [
        (f"{-1 + 2 * tier / len(weights):.1f}", weight)
        for tier, weight in enumerate(weights)
        if weight is not None
    ]
    if not seen:
        return None
    return charts.bars(
        "Attention that a behaviour gets by tier of similarity; 1 is an equal "
        "share",
        "cosine similarity, lower edge of the tier",
        [edge for edge, _ in seen],
        {"attention over an equal share": [weight for _, weight in seen]},
        every=2 if len(seen) > 12 else 1,
    )


def _stages(found: dict[str, Any]) -> list[Stage]:
    return [Stage(**stage) for stage in found["ranked"]["stages"]]


def _recall_chart(evaluation: dict[str, Any] | None) -> str | None:
    if evaluation is None:
        return None
    ks = [str(k) for k in evaluation["ks"]]
    return charts.intervals(
        "Recall of the purchased item, with 95 % intervals, by the number of "
        "items found",
        "items found",
        ks,
        {
            name: [
                (at["value"], at["lower"], at["upper"])
                for at in (scopes["all"][k] for k in ks)
            ]
            for name, scopes in evaluation["methods"].items()
        },
    )


def _slice_chart(models: dict[str, Any], feature: str, axis: str) -> str | None:
    by_model = {
        name: {row["bucket"]: row for row in model["slices"].get(feature, [])}
        for name, model in models.items()
    }
    buckets = [
        bucket
        for bucket in next(iter(by_model.values()))
        if all(_interval(rows.get(bucket)) for rows in by_model.values())
    ]
    if not buckets:
        return None
    return charts.intervals(
        f"GAUC with 95 % intervals by {axis}",
        axis,
        buckets,
        {
            name.upper(): [_interval(rows[bucket]) for bucket in buckets]
            for name, rows in by_model.items()
        },
    )


def _left_out(models: dict[str, Any], feature: str) -> str:
    """Returns a sentence about the slices that have no GAUC, or ""."""
    names = dict.fromkeys(
        row["bucket"]
        for model in models.values()
        for row in model["slices"].get(feature, [])
        if _interval(row) is None
    )
    if not names:
        return ""
    return (
        f" Without GAUC, since no user has both clicked and not clicked "
        f"impressions there: {', '.join(names)}."
    )


def _by_time(parameters: dict[str, Any]) -> bool:
    """Returns whether a data set says that its test weeks come last."""
    train, test = (
        parameters.get(f"{name}_weeks") for name in ("train", "test")
    )
    return bool(train and test and max(train) < min(test))


def _interval(
    row: dict[str, Any] | None,
) -> tuple[float, float, float] | None:
    values = [
        (row or {}).get(name) for name in ("gauc", "gauc_lower", "gauc_upper")
    ]
    numbers = [v for v in values if isinstance(v, float) and v == v]
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else None


def _data_rows(data: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for title, counts in data.items():
        if title == "source":
            continue
        for name, value in sorted((counts or {}).items()):
            label = name.replace("/", " ").replace("_", " ")
            kind = title.replace("_", " ")
            rows.append((f"{kind}: {label}", f"{value:,}"))
    return rows
