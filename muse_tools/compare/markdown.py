"""Results as Markdown, for people."""

from __future__ import annotations

from collections.abc import Iterable

from muse_tools.compare.claims import RULE
from muse_tools.compare.config import BASE_EMBEDDINGS
from muse_tools.compare.results import (
    DataSetResults,
    GroupTable,
    Interval,
    Results,
    Row,
    Table,
    VectorsTable,
)

__all__ = ["to_markdown"]

_TITLES = {
    "overall": "Methods",
    "gsu": "Search (GSU), with SA-TA and SimTier",
    "esu": "Exact search unit (ESU), with SCL cosine",
    "history": "Length of the history",
    "representation": "Quality of the item vectors",
    "activity": "Users by behaviours in their history",
    "popularity": "Items by impressions in the train split",
    "repetition": "Candidates by how often they are in the history",
    "repetition_vectors": "Item vectors of MUSE, by how often the candidate "
    "is in the history",
}


def to_markdown(results: Results) -> str:
    """Returns all tables."""
    lines = [
        f"# Comparison {results.name}",
        "",
        f"`{results.command}`"
        + (" (quick: small, for a look)" if results.quick else ""),
        "",
        "GAUC: mean over seeds, 95 % bootstrap interval over users, ± standard "
        "deviation over seeds. Differences are paired on users and seeds.",
    ]
    for name, data in results.data_sets.items():
        lines += ["", f"## {name}", "", *_data_set(data)]
    return "\n".join(lines) + "\n"


def _data_set(data: DataSetResults) -> list[str]:
    failed = [cell for cell in data.cells if cell.status != "done"]
    lines = [
        f"{data.impressions:,} held-out impressions of {data.users:,} users, "
        f"{data.clicks:,} clicked; item vectors "
        f"{data.description.get('item_embeddings', '?')}; histories of up to "
        f"{data.max_history:,}.",
    ]
    lines += [
        f"- {cell.status}: {cell.name}{': ' if cell.reason else ''}"
        f"{cell.reason or ''}"
        for cell in failed
    ]
    for table in data.tables:
        lines += ["", f"### {_TITLES[table.name]} (paper: {table.paper})", ""]
        lines += _rows(table)
    for group in data.groups:
        paper = group.paper or "not there"
        lines += ["", f"### {_TITLES[group.name]} (paper: {paper})", ""]
        lines += _groups(group)
    if data.vectors:
        lines += ["", "### What the item vectors tell apart, untrained", ""]
        lines += _vectors(data.vectors)
    lines += ["", "### Claims of the paper", "", f"Rule: {RULE}.", ""]
    lines += _markdown(
        ["claim", "verdict", "differences", "why"],
        (
            [
                claim.text,
                f"**{claim.status}**",
                "; ".join(
                    f"{one.name} {_signed(one.difference)}"
                    for one in claim.contrasts
                ),
                claim.reason if claim.status != "confirmed" else "",
            ]
            for claim in data.claims
        ),
    )
    return lines


def _rows(table: Table) -> list[str]:
    extra = {
        "history": ["history"],
        "representation": ["vectors"],
        "gsu": ["GSU"],
        "esu": ["ESU"],
    }.get(table.name, ["GSU", "ESU"])
    values = {
        "history": lambda row: f"{row.history:,}",
        "vectors": lambda row: _vectors_name(row.embeddings),
        "GSU": lambda row: row.gsu or "–",
        "ESU": lambda row: row.esu or "–",
    }
    return _markdown(
        [
            "method",
            *extra,
            "GAUC",
            "difference",
            "AUC",
            "log loss",
            "calibration",
            "parameters",
            "train s",
        ],
        (
            [
                row.name,
                *(values[name](row) for name in extra),
                *_numbers(row),
            ]
            for row in table.rows
        ),
    )


def _numbers(row: Row) -> list[str]:
    if row.gauc is None:
        return ["missing", *[""] * 6]
    return [
        _plain(row.gauc),
        "baseline" if row.baseline is None else _signed(row.difference),
        _digits(row.auc, 4),
        _digits(row.log_loss, 4),
        _digits(row.calibration, 3),
        f"{row.parameters:,} ({row.parameters_without_tables:,} without id "
        "tables)",
        _digits(row.train_seconds, 0),
    ]


def _groups(table: GroupTable) -> list[str]:
    names = list(table.groups[0].gain) if table.groups else []
    return _markdown(
        [
            "group",
            "users",
            "impressions",
            f"GAUC of {table.baseline}",
            *(f"{name} gains" for name in names),
        ],
        (
            [
                group.name,
                f"{group.users:,}",
                f"{group.impressions:,}",
                _plain(group.gauc[table.baseline]),
                *(_signed(group.gain[name]) for name in names),
            ]
            for group in table.groups
        ),
    )


def _vectors(table: VectorsTable) -> list[str]:
    shown = [
        number
        for number in range(len(table.tier_edges) - 1)
        if any((row.tiers[number] or 0) >= 0.0005 for row in table.rows)
    ]
    middle = table.percentiles.index(50)
    lines = [
        f"{table.requests:,} of {table.all_requests:,} test requests, "
        f"{table.impressions:,} impressions. In the history are "
        f"{_percent(table.clicks_repeated)} % of the clicked items and "
        f"{_percent(table.others_repeated)} % of the others. GAUC of counts: "
        + ", ".join(f"{k} {_plain(v)}" for k, v in table.scores.items())
        + f". For each candidate the {table.k} behaviours of the highest "
        "cosine:",
        "",
    ]
    scores = list(table.rows[0].scores) if table.rows else []
    lines += _markdown(
        [
            "vectors",
            "cosine of two random items: "
            + ", ".join(f"{one} %" for one in table.percentiles[:1])
            + f", median, {table.percentiles[-1]} %",
            "retrieved: same item",
            "another of equal vector",
            *(f"GAUC of {name}" for name in scores),
        ],
        (
            [
                _vectors_name(row.embeddings),
                ", ".join(
                    _digits(row.random_pairs[place], 2)
                    for place in (0, middle, -1)
                ),
                f"{_percent(row.same_item)} %",
                f"{_percent(row.equal_vector)} %",
                *(_plain(row.scores[name]) for name in scores),
            ]
            for row in table.rows
        ),
    )
    lines += ["", "Share of what is retrieved by tier, in %:", ""]
    lines += _markdown(
        ["vectors", *(f"from {table.tier_edges[one]:g}" for one in shown)],
        (
            [
                _vectors_name(row.embeddings),
                *(_percent(row.tiers[one]) for one in shown),
            ]
            for row in table.rows
        ),
    )
    return lines


def _vectors_name(embeddings: str) -> str:
    return "the pipeline's" if embeddings == BASE_EMBEDDINGS else embeddings


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _plain(found: Interval) -> str:
    if found.value is None:
        return "–"
    text = f"{found.value:.4f} [{_digits(found.lower, 4)}, "
    text += f"{_digits(found.upper, 4)}]"
    return text if found.spread is None else f"{text} ± {found.spread:.4f}"


def _signed(found: Interval | None) -> str:
    if found is None or found.value is None:
        return "–"
    bounds = ", ".join(
        "–" if bound is None else f"{bound:+.4f}"
        for bound in (found.lower, found.upper)
    )
    text = f"{found.value:+.4f} [{bounds}]"
    return text if found.spread is None else f"{text} ± {found.spread:.4f}"


def _digits(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _markdown(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'|'.join('---' for _ in head)}|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
