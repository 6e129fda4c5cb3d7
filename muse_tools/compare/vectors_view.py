"""The table of item vectors as blocks of a page."""

from __future__ import annotations

from collections.abc import Iterator

from muse_tools.compare.results import VectorsTable
from muse_tools.compare.words import (
    digits,
    interval,
    percent,
    point,
    vectors_name,
)
from muse_tools.pages.blocks import (
    NO_VALUE,
    Block,
    Chart,
    Line,
    Point,
    Table,
    Text,
)

_VISIBLE = 0.0005
"""Smaller shares are rounded to 0.0 %."""


def vectors_view(table: VectorsTable) -> Iterator[Block]:
    """Yields the section of a data set; `table` must have a row."""
    names = list(dict.fromkeys(n for row in table.rows for n in row.scores))
    # The lowest tiers, which are empty for most vectors, are left out.
    first = min(
        (
            tier
            for row in table.rows
            for tier, share in enumerate(row.tiers)
            if share is not None and share >= _VISIBLE
        ),
        default=None,
    )
    yield Text(
        f"For each of {table.impressions:,} candidates of {table.requests:,} "
        f"held-out requests (of {table.all_requests:,}, drawn with seed "
        f"{table.seed}) the {table.k:,} behaviors with the highest cosine, "
        "before anything is trained."
    )
    if table.clicks_repeated is not None and table.others_repeated is not None:
        yield Text(
            f"Of the clicked candidates {percent(table.clicks_repeated)} are "
            "in the user's history already, of the others "
            f"{percent(table.others_repeated)}."
        )
    yield Text(
        "Below: GAUC of single numbers as the score; of the retrieved "
        "behaviors the share of the candidate's item and of others with an "
        "equal vector; percentiles (P) of the cosine of two different random "
        "items; shares by tier."
    )
    if first is not None:
        yield _tier_chart(table, first)
    yield from _score_chart(table, names)
    yield Table(
        ["vectors", *(f"GAUC of {name}" for name in names)],
        [
            *(
                [
                    (vectors_name(row.embeddings),),
                    *(interval(row.scores.get(name)) for name in names),
                ]
                for row in table.rows
            ),
            *(
                [
                    (name, "(only counted, no vectors)"),
                    interval(found),
                    *[(NO_VALUE,)] * (len(names) - 1),
                ]
                for name, found in table.scores.items()
            ),
        ],
    )
    yield Table(
        [
            "vectors",
            "the same item",
            "another, equal vector",
            *(f"random pairs, P{one}" for one in table.percentiles),
        ],
        [
            [
                (vectors_name(row.embeddings),),
                (percent(row.same_item),),
                (percent(row.equal_vector),),
                *((digits(value, 3),) for value in row.random_pairs),
            ]
            for row in table.rows
        ],
    )
    yield Table(
        [
            "retrieved by tier",
            *(f"from {edge:.2g}" for edge in table.tier_edges[first or 0 : -1]),
        ],
        [
            [
                (vectors_name(row.embeddings),),
                *((percent(share),) for share in row.tiers[first or 0 :]),
            ]
            for row in table.rows
        ],
    )


def _tier_chart(table: VectorsTable, first: int) -> Chart:
    edges = table.tier_edges[first:]
    middles = [
        (low + high) / 2
        for low, high in zip(edges[:-1], edges[1:], strict=True)
    ]
    return Chart(
        "Share of the retrieved behaviors by tier of similarity",
        "cosine similarity, middle of the tier",
        "share of the retrieved",
        [
            Line(
                vectors_name(row.embeddings),
                [
                    Point(x, share or 0.0)
                    for x, share in zip(middles, row.tiers[first:], strict=True)
                ],
            )
            for row in table.rows
        ],
        "Share of the retrieved behaviors in each of SimTier's tiers, by item "
        "vectors.",
    )


def _score_chart(table: VectorsTable, names: list[str]) -> Iterator[Chart]:
    lines = [
        Line(
            vectors_name(row.embeddings),
            [
                found
                for name, score in row.scores.items()
                if (found := point(names.index(name), score))
            ],
        )
        for row in table.rows
    ]
    if any(line.points for line in lines):
        yield Chart(
            "GAUC of untrained scores by item vectors",
            "score of a candidate",
            "GAUC",
            lines,
            "GAUC of one number of the retrieved behaviors as the score, "
            "nothing trained, with 95 % intervals over users.",
            style="dots",
            categories=names,
        )
