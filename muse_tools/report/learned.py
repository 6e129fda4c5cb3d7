"""Learned weights as what a page shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import markupsafe

from muse_tools.report import charts

__all__ = ["logit", "shown_weights"]

_COSINES = [step / 20 for step in range(-20, 21)]
_IDS = (-1.0, 0.0, 1.0)
_NEAR, _FAR = 0.9, 0.6


def shown_weights(models: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns words, rows and pictures of every model that has such weights.

    Args:
        models: the report's, by model type; ``learned`` is of
            `muse_tools.report.weights.learned_weights`.
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
                    "tiers": _tier_chart(tiers) if tiers else None,
                    "tier_rows": _tier_rows(tiers),
                    "fusions": [
                        _fusion(part, values)
                        for part, values in fusions.items()
                    ],
                }
            )
    return found


def logit(
    gamma: tuple[float, float, float], scale: float | None, a: float, r: float
) -> float:
    """Returns SA-TA's attention logit (MUSE, arXiv 2512.07216).

    Args:
        gamma: weight of the ids' score, of the similarity, of their product.
        scale: factor of the similarity; None for 1.
        a: score of the ids.
        r: cosine similarity.
    """
    scaled = r if scale is None else scale * r
    return gamma[0] * a + gamma[1] * scaled + gamma[2] * a * scaled


def _edges(count: int) -> list[str]:
    return [f"{-1 + 2 * tier / count:.2g}" for tier in range(count)]


def _tier_chart(tiers: Mapping[str, list[float]]) -> markupsafe.Markup:
    # Parts of one model have equally many tiers.
    count = max(map(len, tiers.values()))
    return markupsafe.Markup(  # noqa: S704
        charts.bars(
            "Learned weight of each tier of similarity, from 1",
            "cosine similarity, lower edge of the tier",
            _edges(count),
            {
                part: values
                for part, values in tiers.items()
                if len(values) == count
            },
            every=4 if count > 10 else 1,
            base=1.0,
        )
    )


def _tier_rows(
    tiers: Mapping[str, list[float]],
) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Returns the parts, and for each tier its edge and weights."""
    count = max(map(len, tiers.values()), default=0)
    return list(tiers), [
        (
            edge,
            [
                f"{values[tier]:.3f}" if tier < len(values) else "–"
                for values in tiers.values()
            ],
        )
        for tier, edge in enumerate(_edges(count))
    ]


def _fusion(part: str, values: Mapping[str, Any]) -> dict[str, Any]:
    heads = list(zip(*values["gamma"], strict=True))
    scale = values["scale"]
    return {
        "part": part,
        "scale": scale,
        "rows": [
            {
                "head": head + 1,
                "cells": [
                    *(f"{value:.3f}" for value in gamma),
                    "–" if scale is None else f"{scale:.2f}",
                ],
            }
            for head, gamma in enumerate(heads)
        ],
        "picture": _fusion_chart(heads[0], scale),
        "meaning": _meaning(heads[0], scale, len(heads)),
    }


def _fusion_chart(
    gamma: tuple[float, float, float], scale: float | None
) -> markupsafe.Markup:
    return markupsafe.Markup(  # noqa: S704
        charts.lines(
            "Attention logit over cosine similarity",
            "cosine similarity r",
            {
                f"a = {a:g}": (
                    _COSINES,
                    [logit(gamma, scale, a, r) for r in _COSINES],
                )
                for a in _IDS
            },
        )
    )


def _meaning(
    gamma: tuple[float, float, float], scale: float | None, heads: int
) -> str:
    """Returns in a sentence what the weights do."""
    by_near, by_far = (logit(gamma, scale, 0.0, r) for r in (_NEAR, _FAR))
    times = math.exp(min(by_near - by_far, 50.0))
    which = f" Head 1 of {heads}." if heads > 1 else ""
    return (
        "The logit over the similarity, for three scores of the ids. Where "
        f"the ids say nothing (a = 0), a behaviour with cosine {_NEAR} gets "
        f"{times:.3g} times the attention of one with {_FAR}.{which}"
    )
