"""How item embeddings are written, whatever made them."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from muse_tools.datasets import arrow_lists, raw_tables
from muse_tools.datasets.errors import DataError
from serving.files import write_json
from tfx_pipeline import progress
from tfx_pipeline.components.item_embedder import report
from tfx_pipeline.tfx_internals import types

__all__ = ["REPORT_FILE", "SAMPLE_ITEMS", "finish", "write_codes"]

REPORT_FILE = "report.json"
SAMPLE_ITEMS = 20_000
"""Items among which neighbours are looked for, about."""

_QUERIES = 1_000
_NEIGHBOURS = 50


def write_codes(
    folder: pathlib.Path,
    number: int,
    total: int,
    item_ids: npt.NDArray[np.int64],
    codes: npt.NDArray[np.int8],
) -> None:
    """Writes one file of the layout of the raw embedding table, atomically.

    Args:
        folder: of all files.
        number: of the file.
        total: number of files.
        item_ids: int64 (n,).
        codes: int8 (n, 128).
    """
    schema = raw_tables.SCHEMAS[raw_tables.EMBEDDINGS]
    name = f"{raw_tables.EMBEDDINGS}-{number:05d}-of-{total:05d}.parquet"
    offsets = np.arange(len(codes) + 1) * codes.shape[1]
    lists = arrow_lists.list_array(codes.reshape(-1), offsets, pa.int8())
    with raw_tables.TableWriter(folder / name, schema) as writer:
        writer.write(
            pa.RecordBatch.from_arrays(
                [pa.array(item_ids), lists], schema=schema
            )
        )


def finish(
    artifact: types.Artifact,
    found: dict[str, Any],
    sample: npt.NDArray[np.float32] | None,
) -> None:
    """Writes the report of written embeddings and says what they are like.

    Args:
        artifact: `ItemEmbeddingsArtifact`.
        found: result of `report.merge`.
        sample: float32 (n, D), unit vectors of some items, or None if there
            are none.

    Raises:
        DataError: ``NO_VECTORS``: no item has a vector.
    """
    if not found["with_vector"] or sample is None:
        raise DataError(
            "NO_VECTORS",
            f"none of {found['items']:,} items got a vector.",
            "check that their content has a modality that is embedded.",
        )
    int8 = report.int8_recall(sample, _NEIGHBOURS, _QUERIES)
    write_json(
        pathlib.Path(artifact.uri) / REPORT_FILE, {**found, "int8": int8}
    )
    artifact.set_int_custom_property("num_items", found["with_vector"])
    artifact.set_int_custom_property("dim", raw_tables.EMBEDDING_DIM)
    kept = (
        f"; int8 keeps {int8['recall']:.2%} of {int8['k']} nearest neighbours"
        if int8["queries"]
        else ""
    )
    progress.report(
        f"{found['with_vector']:,} of {found['items']:,} items embedded{kept}"
    )
