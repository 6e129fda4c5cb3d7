"""Measures how often embedders find the purchased item of a search."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from muse_tools.datasets.errors import DataError
from muse_tools.datasets.item_content import ItemContent
from tfx_pipeline import progress
from tfx_pipeline.evaluation import bootstrap
from tfx_pipeline.scl import embedding, recall, search_dataset
from tfx_pipeline.training import records

KS = (1, 10, 50, 100)
"""The k of recall@k."""


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Searches that were not used for training.

    Attributes:
        queries: float32 (Q, width) by modality.
        rows: int64 (Q,), rows of the purchased items in the content.
        events: number of all held-out events, at least Q.
    """

    queries: dict[str, npt.NDArray[np.float32]]
    rows: npt.NDArray[np.int64]
    events: int


def read_held_out(
    file_patterns: Sequence[str],
    content: ItemContent,
    query_widths: Mapping[str, int],
    limit: int,
) -> HeldOut:
    """Reads held-out events, at most ``limit`` evenly spaced ones.

    Raises:
        DataError: ``NO_SEARCH_EVENTS``: there is no event.
    """
    events = records.count_records(file_patterns)
    if not events:
        raise DataError(
            "NO_SEARCH_EVENTS",
            "no search event was held out to measure recall on.",
            "raise scl.eval_fraction, or give more events.",
        )
    chosen = np.unique(
        np.linspace(0, events - 1, min(events, limit)).round().astype(np.int64)
    )
    batches = search_dataset.search_dataset(
        file_patterns,
        content,
        query_widths=query_widths,
        item_widths={},
        batch_events=1024,
        drop_remainder=False,
    )
    parts: dict[str, list[np.ndarray]] = {name: [] for name in query_widths}
    ids: list[np.ndarray] = []
    start = 0
    for batch in batches.as_numpy_iterator():
        size = len(batch["item_ids"])
        mine = chosen[(chosen >= start) & (chosen < start + size)] - start
        for name in query_widths:
            parts[name].append(batch["query"][name][mine])
        ids.append(batch["item_ids"][mine])
        start += size
    return HeldOut(
        {name: np.concatenate(part) for name, part in parts.items()},
        content.rows_of(np.concatenate(ids)),
        events,
    )


def evaluate(
    embedders: Mapping[str, embedding.Embedder],
    held_out: HeldOut,
    content: ItemContent,
    categories: npt.NDArray[np.int64],
    working_dir: pathlib.Path,
) -> dict[str, Any]:
    """Measures the recall of the purchased item by several embedders.

    Returns:
        ``queries``, ``held_out_events`` and ``items`` (numbers), ``ks``, and
        ``methods``: by name, scope (``all``, ``same_category``) and k as text,
        the recall with its bootstrap interval (``value``, ``lower``,
        ``upper``).
    """
    methods = {}
    for name, embedder in embedders.items():
        progress.report(f"recall of {name} over {len(content):,} items")
        queries = embedder.queries(held_out.queries)
        with tempfile.TemporaryDirectory(dir=working_dir) as folder:
            # On disk, because the vectors may not fit in memory.
            items = np.lib.format.open_memmap(
                pathlib.Path(folder) / "items.npy",
                "w+",
                np.float32,
                (len(content), queries.shape[1]),
            )
            for rows, vectors in embedding.embed_content(
                embedder.items, content
            ):
                items[rows] = vectors
            ranks = recall.ranks(queries, held_out.rows, items, categories)
            methods[name] = {
                scope: {str(k): _with_interval(values, k) for k in KS}
                for scope, values in ranks.items()
            }
            del items
    return {
        "queries": len(held_out.rows),
        "held_out_events": held_out.events,
        "items": len(content),
        "ks": list(KS),
        "methods": methods,
    }


def _with_interval(ranks: npt.NDArray[np.int64], k: int) -> dict[str, float]:
    lower, upper = bootstrap.mean_interval(ranks < k, np.ones(len(ranks)))
    value = recall.recall_of_ranks(ranks, k)
    return {"value": value, "lower": lower, "upper": upper}
