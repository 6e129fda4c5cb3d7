"""What item vectors tell apart, as what a page shows."""

from __future__ import annotations

import dataclasses

from muse_tools.compare.config import BASE_EMBEDDINGS
from muse_tools.compare.results import Interval, VectorsTable
from muse_tools.report import charts

__all__ = ["ShownVectors", "interval_values", "shown_vectors"]

_NO = "–"
_LEAST_SHARE = 0.0005


@dataclasses.dataclass(frozen=True)
class ShownVectors:
    """A section of the page.

    Attributes:
        lines: words.
        pictures: SVG with its caption.
        tables: head and rows; a cell is its lines.
    """

    lines: list[str]
    pictures: list[tuple[str, str]]
    tables: list[tuple[list[str], list[list[tuple[str, ...]]]]]


def shown_vectors(table: VectorsTable | None) -> ShownVectors | None:
    """Returns the section, or None where the results have none."""
    if table is None or not table.rows:
        return None
    pictures = [(_tiers(table), _TIERS_CAPTION), (_scores(table), _SCORES)]
    return ShownVectors(
        _lines(table),
        [(picture, caption) for picture, caption in pictures if picture],
        [_score_table(table), _share_table(table), _tier_table(table)],
    )


_TIERS_CAPTION = (
    "Share of the retrieved behaviours in each of SimTier's tiers, by item "
    "vectors."
)
_SCORES = (
    "GAUC of one number of the retrieved behaviours as the score, nothing "
    "trained, with 95 % intervals over users."
)


def _lines(table: VectorsTable) -> list[str]:
    lines = [
        f"For each of {table.impressions:,} candidates of "
        f"{table.requests:,} held-out requests (of {table.all_requests:,}, "
        f"drawn with seed {table.seed}) "
        f"the {table.k:,} behaviours with the highest cosine, before anything "
        "is trained."
    ]
    if table.clicks_repeated is not None and table.others_repeated is not None:
        lines.append(
            f"Of the clicked candidates {_percent(table.clicks_repeated)} are "
            "in the user's history already, of the others "
            f"{_percent(table.others_repeated)}."
        )
    lines.append(
        "Below: GAUC of single numbers as the score; of the retrieved "
        "behaviours the share of the candidate's item and of others with an "
        "equal vector; percentiles (P) of the cosine of two different random "
        "items; shares by tier."
    )
    return lines


def _score_table(
    table: VectorsTable,
) -> tuple[list[str], list[list[tuple[str, ...]]]]:
    names = list(dict.fromkeys(n for row in table.rows for n in row.scores))
    rows = [
        [
            (_name(row.embeddings),),
            *(_cell(row.scores.get(name)) for name in names),
        ]
        for row in table.rows
    ]
    for name, found in table.scores.items():
        rows.append(
            [
                (name, "only counted, no vectors"),
                _cell(found),
                *[(_NO,)] * (len(names) - 1),
            ]
        )
    return ["vectors", *(f"GAUC of {name}" for name in names)], rows


def _share_table(
    table: VectorsTable,
) -> tuple[list[str], list[list[tuple[str, ...]]]]:
    head = ["vectors", "the same item", "another, equal vector"]
    head += [f"random pairs, P{percentile}" for percentile in table.percentiles]
    return head, [
        [
            (_name(row.embeddings),),
            (_percent(row.same_item),),
            (_percent(row.equal_vector),),
            *((_digits(value),) for value in row.random_pairs),
        ]
        for row in table.rows
    ]


def _tier_table(
    table: VectorsTable,
) -> tuple[list[str], list[list[tuple[str, ...]]]]:
    first = _first_tier(table) or 0
    edges = table.tier_edges[first:-1]
    return ["retrieved by tier", *(f"from {edge:.2g}" for edge in edges)], [
        [
            (_name(row.embeddings),),
            *((_percent(share),) for share in row.tiers[first:]),
        ]
        for row in table.rows
    ]


def _first_tier(table: VectorsTable) -> int | None:
    """Returns the lowest tier with a share that can be seen, or None."""
    used = (
        tier
        for row in table.rows
        for tier, share in enumerate(row.tiers)
        if share is not None and share >= _LEAST_SHARE
    )
    return min(used, default=None)


def _tiers(table: VectorsTable) -> str:
    """Draws the shares over the tiers' middles, without empty low tiers."""
    first = _first_tier(table)
    if first is None:
        return ""
    ends = table.tier_edges[first:]
    middles = [
        (low + high) / 2 for low, high in zip(ends[:-1], ends[1:], strict=True)
    ]
    return charts.lines(
        "Share of the retrieved behaviours by tier of similarity",
        "cosine similarity, middle of the tier",
        {
            _name(row.embeddings): (
                middles,
                [float(share or 0.0) for share in row.tiers[first:]],
            )
            for row in table.rows
        },
    )


def _scores(table: VectorsTable) -> str:
    names = list(dict.fromkeys(n for row in table.rows for n in row.scores))
    series = {
        _name(row.embeddings): [
            interval_values(row.scores.get(name)) for name in names
        ]
        for row in table.rows
    }
    if not any(value for values in series.values() for value in values):
        return ""
    return charts.intervals(
        "GAUC of untrained scores by item vectors",
        "score of a candidate",
        names,
        series,
    )


def interval_values(
    found: Interval | None,
) -> tuple[float, float, float] | None:
    """Value, lower and upper end, the value where an end is unknown."""
    if found is None or found.value is None:
        return None
    return (
        found.value,
        found.value if found.lower is None else found.lower,
        found.value if found.upper is None else found.upper,
    )


def _cell(found: Interval | None) -> tuple[str, ...]:
    if found is None or found.value is None:
        return (_NO,)
    lines = [f"{found.value:.4f}"]
    if found.lower is not None and found.upper is not None:
        lines.append(f"{found.lower:.4f} to {found.upper:.4f}")
    return tuple(lines)


def _name(embeddings: str) -> str:
    return "the pipeline's" if embeddings == BASE_EMBEDDINGS else embeddings


def _percent(share: float | None) -> str:
    return _NO if share is None else f"{100 * share:.1f} %"


def _digits(value: float | None) -> str:
    return _NO if value is None else f"{value:.3f}"
