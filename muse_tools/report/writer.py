"""Writes the report as an HTML page and its numbers as JSON."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import markupsafe

from muse_tools.compare.grid import Method
from muse_tools.compare.results import Results
from muse_tools.compare.view import headline, results_view
from muse_tools.demo.ranked_request import source_words
from muse_tools.pages import html
from muse_tools.pages.blocks import Chart, Line, Point
from muse_tools.report.curves import (
    calibration_chart,
    loss_chart,
    tier_chart,
    tier_edges,
)
from muse_tools.report.groups import group_charts
from muse_tools.report.labels import declared_table, label_table, list_table
from muse_tools.report.learned import shown_weights
from serving.client.ranking import Stage
from serving.files import write_json, write_text
from serving.ranking_service import timeline
from tfx_pipeline import config as config_lib


def write_report(
    config: config_lib.PipelineConfig,
    path: pathlib.Path,
    report: Callable[[str], None],
    comparison: Results | None = None,
) -> dict[str, Any]:
    """Writes the page and a ``.json`` file of the same name beside it.

    Returns the numbers.

    Raises:
        DataError: if the pipeline has not trained a model yet.
    """
    # Imported here because the page of a comparison needs no TFX.
    from muse_tools.report.collect import collect

    found = collect(config, report)
    if comparison is not None:
        found["comparison"] = comparison.model_dump(mode="json")
    write_json(path.with_suffix(".json"), found)
    write_text(path, render(found))
    return found


def summary_lines(found: Mapping[str, Any]) -> list[str]:
    """Returns the main results as lines for a terminal."""
    models = found["models"]
    lines = [model["verdict"] for model in models.values()]
    if len(models) > 1:
        lines.append(verdict(found))
    evaluation = found["embeddings"]["evaluation"]
    if evaluation is not None:
        k = str(evaluation["ks"][-1])
        values = ", ".join(
            f"{name} {scopes['all'][k]['value']:.4f}"
            for name, scopes in evaluation["methods"].items()
        )
        lines.append(
            f"Item embeddings, recall@{k} of the purchased item: {values}"
        )
    compared = found.get("comparison")
    if compared is not None:
        lines += headline(Results.model_validate(compared))
    return lines


def verdict(found: Mapping[str, Any]) -> str:
    """Returns a sentence that compares MUSE and DIN, or the only verdict."""
    difference = found["difference"]
    if difference is None:
        return " ".join(
            f"{model['verdict']}." for model in found["models"].values()
        )
    value, low, high = (difference[key] for key in ("value", "lower", "upper"))
    if value is None or value != value:
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


def render(found: Mapping[str, Any]) -> str:
    """Returns the page of collected values as HTML."""
    compared = found.get("comparison")
    results = compared and Results.model_validate(compared)
    models = found["models"]
    source = found["data"]["source"] or {}
    ranked = found["ranked"]
    declared = found.get("declared")
    first_label = declared["labels"][0] if declared else "click"
    stages = [Stage(**stage) for stage in ranked["stages"]] if ranked else []
    charts: dict[str, Chart | None] = collections.defaultdict(lambda: None)
    charts.update(_charts(found))
    return html.rendered(
        "muse_tools.report/page.html.j2",
        found=found,
        title=_title(found),
        about=_about(found),
        descriptions=[_description(*item) for item in models.items()],
        first=next(iter(models.values())),
        verdict=verdict(found),
        charts=charts,
        stages=markupsafe.Markup(  # noqa: S704
            timeline.as_svg(stages, ranked["total_ms"])
        ).replace("<svg ", markupsafe.Markup('<svg class="stages" '), 1)
        if stages
        else "",
        overlap=timeline.overlap(stages) if stages else "",
        data_rows=list(_data_rows(found["data"])),
        policy=source.get("policy"),
        by_time=_by_time(source.get("parameters", {})),
        learned=shown_weights(models),
        slices=group_charts(models, first_label),
        first_label=first_label,
        labels=label_table(models),
        lists=list_table(first_label, models),
        declared=declared and declared_table(declared),
        candidates=ranked and source_words(ranked["candidates_from"]),
        comparison=results and results_view(results),
        comparison_name=results and results.name,
    )


def _title(found: Mapping[str, Any]) -> str:
    models = " and ".join(name.upper() for name in found["models"])
    return f"{found['pipeline']}: {models}"


def _about(found: Mapping[str, Any]) -> str:
    """Returns a sentence that says what was ranked and when."""
    first = next(iter(found["models"].values()))
    source = found["data"]["source"] or {}
    name = source.get("name") or (found.get("declared") or {}).get("name")
    where = f" of {name}" if name else ""
    text = (
        f"Ranked: {first['impressions']:,.0f} impressions{where}, of "
        f"{first['gauc_users']:,.0f} users that count in GAUC"
    )
    weeks = source.get("parameters", {}).get("test_weeks")
    if weeks:
        text += f", weeks {weeks[0]} to {weeks[1]}"
    finished = [one["finished"] for one in found["executions"]]
    return f"{text}. Last run: {max(finished)} UTC." if finished else f"{text}."


def _description(name: str, model: Mapping[str, Any]) -> str:
    """Returns a sentence about the parts of a model."""
    settings = model["settings"].get("model", {})
    method = Method(name, settings.get("gsu") or "", settings.get("esu") or "")
    gsu, esu = method.parts
    recent = f"{settings.get('recent', '?')} newest behaviors"
    short = f"target attention over ids and SimTier over the {recent}"
    declared = model["settings"].get("schema", {}).get("features", {})
    matches = declared.get("matches", ())
    if matches:
        short += (
            ", and how many behaviors have the candidate's "
            f"{', how many its '.join(matches)}"
        )
    if gsu is None and esu is None:
        return (
            f"{name.upper()}: {short}; no search in the longer history. It is "
            "the baseline: the other rankers add their search to this part."
        )
    return (
        f"{name.upper()}: search {gsu} for at most {settings.get('k', '?')} "
        f"behaviors of the whole history, exact search unit {esu}; besides, "
        f"as every ranker here, {short}."
    )


def _charts(found: Mapping[str, Any]) -> Iterator[tuple[str, Chart]]:
    """Yields names and charts for which there are numbers."""
    models = {name.upper(): one for name, one in found["models"].items()}
    yield "curves", loss_chart({n: one["curve"] for n, one in models.items()})
    yield (
        "calibration",
        calibration_chart({n: one["reliability"] for n, one in models.items()}),
    )
    if found["embeddings"]["evaluation"] is not None:
        yield "recall", _recall(found["embeddings"])
    tiers = found["tiers"]
    if not tiers:
        return
    edges = tier_edges(len(tiers["clicked"]))
    yield (
        "tiers",
        tier_chart(
            "Mean number of retrieved behaviors per similarity tier, for "
            "clicked and not clicked candidates",
            "behaviors",
            {"not clicked": tiers["not_clicked"], "clicked": tiers["clicked"]},
            edges,
            "SimTier: of the retrieved behaviors of a candidate, how many "
            "lie in each tier of similarity, on average over clicked and "
            "not clicked candidates of the eval split.",
        ),
    )
    seen = {
        edge: weight
        for edge, weight in zip(edges, tiers["attention"], strict=True)
        if weight is not None
    }
    if seen:
        yield (
            "attention",
            tier_chart(
                "Attention that a behavior gets by tier of similarity; 1 "
                "is an equal share",
                "over an equal share",
                {"attention": list(seen.values())},
                list(seen),
                "SA-TA: the attention that a retrieved behavior gets by "
                "its similarity to the candidate, over an equal share of "
                "the candidate's behaviors; 1 is indifferent. Tiers "
                "without behaviors are left out.",
            ),
        )


def _recall(embeddings: Mapping[str, Any]) -> Chart:
    evaluation = embeddings["evaluation"]
    ks = [str(k) for k in evaluation["ks"]]
    return Chart(
        "Recall of the purchased item, with 95 % intervals, by the number of "
        "items found",
        "items found",
        "recall",
        [
            Line(
                name,
                [
                    Point(place, *(scopes["all"][k][v] for v in _ENDS))
                    for place, k in enumerate(ks)
                ],
            )
            for name, scopes in evaluation["methods"].items()
        ],
        f"Recall of the purchased item among all {evaluation['items']:,} "
        f"items: how often it is among the nearest {', '.join(ks)}. Measured "
        f"on {evaluation['queries']:,} searches later than the "
        f"{embeddings['run']['events']:,} trained on.",
        "dots",
        ks,
    )


_ENDS = ("value", "lower", "upper")


def _by_time(parameters: Mapping[str, Any]) -> bool:
    """Returns whether a data set's test weeks are after its train weeks."""
    train, test = (
        parameters.get(f"{name}_weeks") for name in ("train", "test")
    )
    return bool(train and test and max(train) < min(test))


def _data_rows(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for title, counts in data.items():
        for name, value in sorted((counts or {}).items()):
            if title != "source":
                label = name.replace("/", " ").replace("_", " ")
                yield f"{title.replace('_', ' ')}: {label}", f"{value:,}"
