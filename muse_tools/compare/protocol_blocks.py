"""The protocol of a comparison as blocks of a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from muse_tools.compare.results import DataSetResults, Results
from muse_tools.compare.words import digits, joined, percent
from muse_tools.pages.blocks import NO_VALUE, Block, Details, Table


def protocol(data: DataSetResults, results: Results) -> Iterator[Block]:
    """Yields the settings, the data and all trainings of a comparison."""
    facts = [((n,), (v,)) for n, v in _facts(data, results) if v]
    yield Table(["", ""], facts, 2)
    yield from _splits(data.description.get("splits"))
    yield _trainings(data)


def _facts(data: DataSetResults, results: Results) -> Iterator[tuple[str, str]]:
    yield "command", results.command
    yield "size", "quick: little data, for a look" if results.quick else "full"
    yield "seeds of the methods", joined(results.settings.get("seeds"))
    yield (
        "seeds of the other tables",
        joined(results.settings.get("ablation_seeds")),
    )
    yield "bootstrap resamples of users", f"{results.bootstrap_samples:,}"
    yield "code that trained (digest)", results.code
    yield "versions", ", ".join(map(" ".join, results.versions.items()))
    clicked = f"{data.clicks:,}"
    if data.impressions:
        clicked += f" ({percent(data.clicks / data.impressions, 2)})"
    yield "held-out users", f"{data.users:,}"
    yield "held-out impressions", f"{data.impressions:,}"
    yield "clicked", clicked
    yield "longest history", f"{data.max_history:,}"
    yield "item vectors", str(data.description.get("item_embeddings", ""))
    yield "trainings", f"{len(data.cells):,}"
    for name, value in _flat(data.description):
        if not name.startswith(("splits", "item embeddings")):
            yield f"data: {name.removeprefix('parameters, ')}", value


def _flat(values: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Yields the leaves of a nested description with their paths."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            word = str(key).replace("_", " ")
            yield from _flat(value, f"{name}, {word}" if name else word)
    elif isinstance(values, list | tuple):
        yield name, " to ".join(map(_plain, values))
    else:
        yield name, _plain(values)


def _plain(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    # Numbers of eight digits are seeds or names: no thousands separators.
    return f"{value:,}" if abs(value) < 1e7 else str(value)


def _splits(splits: object) -> Iterator[Table]:
    if not isinstance(splits, Mapping) or not splits:
        return
    flat = {str(name): dict(_flat(split)) for name, split in splits.items()}
    labels = dict.fromkeys(label for split in flat.values() for label in split)
    yield Table(
        ["split", *flat],
        [
            [
                (label,),
                *((split.get(label, NO_VALUE),) for split in flat.values()),
            ]
            for label in labels
        ],
    )


def _trainings(data: DataSetResults) -> Details:
    rows = [
        [
            (cell.name, f"({cell.key})"),
            (str(cell.seed),),
            (cell.status,),
            (digits(cell.gauc, 4),),
            (digits(cell.train_seconds, 0),),
        ]
        for cell in data.cells
    ]
    return Details(
        f"All {len(rows)} trainings",
        [Table(["training (key)", "seed", "state", "GAUC", "seconds"], rows)],
    )
