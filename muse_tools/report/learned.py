"""Texts, tables and charts of the learned weights of SimTier and SA-TA."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from muse_tools.pages.blocks import NO_VALUE, Chart, Line, Point, Table
from muse_tools.report.curves import tier_chart, tier_edges

_COSINES = [step / 20 for step in range(-20, 21)]
_IDS = (-1.0, 0.0, 1.0)
_NEAR, _FAR = 0.9, 0.6


def shown_weights(models: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns ``model``, ``tiers`` and ``fusions`` of models with weights.

    A model's ``learned`` comes from `weights.learned_weights`. ``tiers`` is a
    chart and a table, or None.
    """
    found = []
    for name, model in models.items():
        weights = model.get("learned") or {}
        tiers = weights.get("tiers") or {}
        fusions = weights.get("fusion") or {}
        if tiers or fusions:
            found.append(
                {
                    "model": name,
                    "tiers": _tiers(tiers) if tiers else None,
                    "fusions": [_fusion(*item) for item in fusions.items()],
                }
            )
    return found


def logit(
    gamma: tuple[float, float, float], scale: float | None, a: float, r: float
) -> float:
    """Returns SA-TA's attention logit (MUSE, arXiv 2512.07216).

    `a` is the score of the ids and `r` the cosine similarity. `gamma` has the
    weights of `a`, of `r` and of their product.
    """
    scaled = r if scale is None else scale * r
    return gamma[0] * a + gamma[1] * scaled + gamma[2] * a * scaled


def _tiers(tiers: Mapping[str, list[float]]) -> tuple[Chart, Table]:
    # All parts of a model have the same number of tiers.
    count = max(map(len, tiers.values()))
    edges = tier_edges(count)
    chart = tier_chart(
        "Learned weight of each tier of similarity, from 1",
        "weight",
        tiers,
        edges,
        "SimTier: the factor of the (log) count of behaviors in each tier of "
        "similarity. It starts at 1; above 1 the tier counts more, and a tier "
        "without behaviors stays at 1.",
        base=1.0,
    )
    rows = [
        [
            (edge,),
            *(
                (f"{values[tier]:.3f}" if tier < len(values) else NO_VALUE,)
                for values in tiers.values()
            ),
        ]
        for tier, edge in enumerate(edges)
    ]
    return chart, Table(["tier, from cosine", *tiers], rows)


def _fusion(part: str, values: Mapping[str, Any]) -> dict[str, Any]:
    heads = list(zip(*values["gamma"], strict=True))
    scale = values["scale"]
    shown = NO_VALUE if scale is None else f"{scale:.2f}"
    return {
        "part": part,
        "scale": scale,
        "table": Table(
            ["head", "γ₁ ids", "γ₂ cosine", "γ₃ both", "s"],
            [
                [
                    (str(head),),
                    *((f"{value:.3f}",) for value in gamma),
                    (shown,),
                ]
                for head, gamma in enumerate(heads, 1)
            ],
        ),
        "chart": Chart(
            "Attention logit over cosine similarity",
            "cosine similarity r",
            "logit",
            [
                Line(
                    f"a = {a:g}",
                    [Point(r, logit(heads[0], scale, a, r)) for r in _COSINES],
                )
                for a in _IDS
            ],
            _meaning(heads[0], scale, len(heads)),
        ),
    }


def _meaning(
    gamma: tuple[float, float, float], scale: float | None, heads: int
) -> str:
    """Returns a sentence that explains the effect of the weights."""
    by_near, by_far = (logit(gamma, scale, 0.0, r) for r in (_NEAR, _FAR))
    times = math.exp(min(by_near - by_far, 50.0))
    which = f" Head 1 of {heads}." if heads > 1 else ""
    return (
        "The logit over the similarity, for three scores of the ids. Where "
        f"the ids say nothing (a = 0), a behavior with cosine {_NEAR} gets "
        f"{times:.3g} times the attention of one with {_FAR}.{which}"
    )
