"""Writes item embeddings and a report on them.

The report has coverage, norms and the loss of accuracy by int8 codes.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from muse_tools.datasets import (
    arrow_lists,
    item_text,
    raw_rows,
    raw_tables,
    table_writer,
)
from muse_tools.datasets.errors import DataError
from serving.files import write_json
from tfx_pipeline import progress
from tfx_pipeline.scl.embedding import unit
from tfx_pipeline.tfx_internals import types

REPORT_FILE = "report.json"
SAMPLE_ITEMS = 20_000
"""Approximate number of items among which neighbors are searched."""

_QUERIES = 1_000
_NEIGHBORS = 50


def write_codes(
    folder: pathlib.Path,
    number: int,
    total: int,
    item_ids: npt.NDArray[np.int64],
    codes: npt.NDArray[np.int8],
) -> None:
    """Writes one file in the layout of the raw embedding table, atomically."""
    schema = raw_tables.plain(
        raw_tables.schemas(raw_rows.TAOBAO_MM)[raw_tables.EMBEDDINGS]
    )
    name = f"{raw_tables.EMBEDDINGS}-{number:05d}-of-{total:05d}.parquet"
    offsets = np.arange(len(codes) + 1) * codes.shape[1]
    lists = arrow_lists.list_array(codes.reshape(-1), offsets, pa.int8())
    with table_writer.TableWriter(folder / name, schema) as writer:
        writer.write(
            pa.RecordBatch.from_arrays(
                [pa.array(item_ids), lists], schema=schema
            )
        )


def sampled_rows(count: int) -> npt.NDArray[np.int64]:
    """Returns evenly spaced rows of ``count``, at most `SAMPLE_ITEMS`."""
    places = np.linspace(0, count - 1, min(count, SAMPLE_ITEMS))
    return np.unique(places.round().astype(np.int64))


def finish(
    artifact: types.Artifact,
    found: dict[str, Any],
    sample: npt.NDArray[np.float32] | None,
) -> None:
    """Writes the report on embeddings and sets the artifact's properties.

    ``found`` is the result of `merge`; ``sample`` has unit vectors of some
    items.

    Raises:
        DataError: ``NO_VECTORS``: no item has a vector.
    """
    if not found["with_vector"] or sample is None:
        raise DataError(
            "NO_VECTORS",
            f"none of {found['items']:,} items got a vector.",
            "check that their content has a modality that is embedded.",
        )
    int8 = int8_recall(sample, _NEIGHBORS, _QUERIES)
    write_json(
        pathlib.Path(artifact.uri) / REPORT_FILE, {**found, "int8": int8}
    )
    artifact.set_int_custom_property("num_items", found["with_vector"])
    artifact.set_int_custom_property("dim", raw_tables.EMBEDDING_DIM)
    kept = (
        f"; int8 keeps {int8['recall']:.2%} of {int8['k']} nearest neighbors"
        if int8["queries"]
        else ""
    )
    progress.report(
        f"{found['with_vector']:,} of {found['items']:,} items embedded{kept}"
    )


@dataclasses.dataclass(frozen=True)
class BlockReport:
    """Numbers of a block of items; `merge` adds them up.

    ``without_vector`` counts items without usable content. Norms are those of
    ``codes / 127``.
    """

    items: int
    without_vector: int
    code_norm_sum: float
    code_norm_min: float
    code_norm_max: float

    @classmethod
    def of(cls, codes: npt.NDArray[np.int8], items: int) -> BlockReport:
        """Describes a block of items and its codes of items with a vector."""
        norms = np.linalg.norm(codes.astype(np.float32), axis=1)
        norms /= item_text.SCALE
        return cls(
            items,
            items - len(codes),
            float(norms.sum(dtype=np.float64)),
            float(norms.min(initial=np.inf)),
            float(norms.max(initial=0.0)),
        )


def merge(blocks: list[BlockReport]) -> dict[str, Any]:
    """Merges the reports of blocks.

    Returns:
        ``items``, ``with_vector``, ``without_vector`` and ``code_norm``: mean,
        min and max of the norms of the decoded vectors (just below 1 for unit
        vectors); None without any vector.
    """
    items = sum(block.items for block in blocks)
    without = sum(block.without_vector for block in blocks)
    found = items - without
    total = sum(block.code_norm_sum for block in blocks)
    return {
        "items": items,
        "with_vector": found,
        "without_vector": without,
        "code_norm": {
            "mean": total / found,
            "min": min(block.code_norm_min for block in blocks),
            "max": max(block.code_norm_max for block in blocks),
        }
        if found
        else None,
    }


def int8_recall(
    vectors: npt.NDArray[np.float32], k: int, queries: int
) -> dict[str, Any]:
    """Measures how many nearest neighbors are the same with int8 codes.

    Both searches are exact: by the cosine of the unit vectors (n, D), and by
    the cosine of their codes, as in the ranker. At most ``queries`` evenly
    spaced items are queries. ``recall`` is the mean share of the k nearest
    items by vectors that are among the k nearest by codes.
    """
    k = min(k, len(vectors) - 1)
    if k < 1:
        return {"items": len(vectors), "queries": 0, "k": 0, "recall": None}
    decoded = unit(item_text.quantize(vectors).astype(np.float32))
    asked = np.unique(
        np.linspace(0, len(vectors) - 1, min(queries, len(vectors)))
        .round()
        .astype(np.int64)
    )
    overlap, error = 0, 0.0
    for some in np.array_split(asked, -(-len(asked) // 256)):
        exact = vectors[some] @ vectors.T
        coded = decoded[some] @ decoded.T
        error = max(error, float(np.abs(exact - coded).max()))
        places = np.arange(len(some))
        for scores in (exact, coded):
            scores[places, some] = -np.inf
        mine = np.argpartition(-coded, k - 1, axis=1)[:, :k]
        kth = np.partition(exact, -k, axis=1)[:, -k]
        # Compare scores, not indices: any of several equal vectors is right.
        overlap += int(
            (
                np.take_along_axis(exact, mine, axis=1) >= kth[:, None] - 1e-6
            ).sum()
        )
    return {
        "items": len(vectors),
        "queries": len(asked),
        "k": k,
        "recall": overlap / (len(asked) * k),
        "max_cosine_error": error,
    }
