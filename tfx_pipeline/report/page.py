"""The report as one HTML page that needs nothing else."""

from __future__ import annotations

import pathlib

import jinja2
import markupsafe

from tfx_pipeline.report import charts
from tfx_pipeline.report.contents import Report

__all__ = ["render", "verdict"]

_TEMPLATE = pathlib.Path(__file__).with_name("page.html.j2")


def render(report: Report) -> str:
    """Returns the page."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    drawn = {
        name: markupsafe.Markup(svg)  # noqa: S704 - made here, texts escaped
        for name, svg in _charts(report).items()
    }
    return template.render(
        r=report,
        charts=drawn,
        verdict=verdict(report),
        num=_number,
        signed=_signed,
    )


def verdict(report: Report) -> str:
    """Returns the result in words, whatever it is."""
    if report.difference is None:
        return " ".join(
            f"{model.name.upper()} reaches GAUC {_number(model.gauc.value)} "
            f"(95 % interval {_number(model.gauc.low)} to "
            f"{_number(model.gauc.high)}). There is no second model to "
            "compare with."
            for model in report.models
        )
    value, low, high = (
        report.difference.value,
        report.difference.low,
        report.difference.high,
    )
    numbers = (
        f"The paired difference MUSE − DIN in GAUC is {_signed(value)}, "
        f"95 % interval {_signed(low)} to {_signed(high)}"
    )
    if report.difference.spans_zero:
        return (
            f"No clear difference. {numbers}. The interval holds zero: these "
            "users do not show which of the two ranks better."
        )
    better, worse = ("MUSE", "DIN") if value > 0 else ("DIN", "MUSE")
    return (
        f"{better} ranks better than {worse} here. {numbers}. The interval "
        "does not hold zero."
    )


def _charts(report: Report) -> dict[str, str]:
    return {
        "gauc": charts.interval_chart(
            "c-gauc",
            "GAUC with 95 % intervals",
            [(m.name.upper(), {m.name: m.gauc}) for m in report.models],
        ),
        "difference": (
            charts.interval_chart(
                "c-difference",
                "Paired difference MUSE minus DIN in GAUC",
                [("MUSE − DIN", {"difference": report.difference})],
                zero_line=True,
            )
            if report.difference
            else ""
        ),
        "history": charts.interval_chart(
            "c-history",
            "GAUC by history length",
            [(row.bucket, row.gauc) for row in report.by_history],
        ),
        "popularity": charts.interval_chart(
            "c-popularity",
            "GAUC by item popularity",
            [(row.bucket, row.gauc) for row in report.by_popularity],
        ),
        "loss": charts.loss_chart(
            "c-loss",
            "Training loss by step",
            {model.name: model.loss_curve for model in report.models},
        ),
        "tiers": (
            charts.tier_chart(
                "c-tiers",
                "Retrieved behaviours per candidate by cosine, clicked "
                "against not clicked",
                report.tiers,
            )
            if report.tiers
            else ""
        ),
    }


def _number(value: float) -> str:
    return f"{value:.4f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")
