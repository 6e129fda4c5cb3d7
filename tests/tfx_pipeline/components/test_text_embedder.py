"""Item embeddings from texts alone."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muse_tools.datasets import item_text, table_writer
from muse_tools.datasets.errors import DataError
from tfx_pipeline.components.artifacts import (
    CONTENT_DIR,
    ItemContentArtifact,
    ItemEmbeddingsArtifact,
)
from tfx_pipeline.components.item_content_gen import build_item_content
from tfx_pipeline.components.text_embedder import TextEmbedder

TEXTS = {
    5: "red apple fruit",
    -9: "green apple fruit",
    7: "stainless steel screw",
    8: "steel screw",
    2**62: "red apple fruit",
}


def run(folder, table):
    table_writer.write_table(folder / "raw" / "item_content.parquet", table)
    item_content = ItemContentArtifact()
    item_content.uri = str(folder / "items")
    build_item_content(
        str(folder / "raw"),
        folder / "items" / CONTENT_DIR,
        folder / "rejected",
        "",
    )
    artifact = ItemEmbeddingsArtifact()
    artifact.uri = str(folder / "embeddings")
    TextEmbedder.test_call(
        item_content,
        artifact,
        raw_dir=str(folder / "raw"),
        raw_fingerprint="",
        seed=3,
    )
    return artifact


def test_texts_become_codes_of_their_items(tmp_path):
    # A second row of an item and a row without an id do not count.
    ids = [*TEXTS, 5, None, 11]
    texts = [*TEXTS.values(), "something else", "lost", "   "]
    artifact = run(
        tmp_path,
        pa.table(
            {
                "item_id": pa.array(ids, pa.int64()),
                "text": pa.array(texts, pa.string()),
            }
        ),
    )
    folder = pathlib.Path(artifact.uri)
    (file,) = (folder / "embeddings").glob("*.parquet")
    rows = pq.read_table(file).to_pylist()
    codes = {row["item_id"]: np.array(row["item_vector"]) for row in rows}
    assert set(codes) == set(TEXTS)
    ordered = sorted(TEXTS)
    wanted = item_text.quantize(
        item_text.text_vectors(
            {"text": [TEXTS[item] for item in ordered]}, {"text": 1.0}, seed=3
        )
    )
    for item, code in zip(ordered, wanted, strict=True):
        np.testing.assert_array_equal(codes[item], code)
    assert codes[5] @ codes[-9] > codes[5] @ codes[7]
    np.testing.assert_array_equal(codes[5], codes[2**62])
    found = json.loads((folder / "report.json").read_text())
    assert (found["items"], found["with_vector"]) == (5, 5)


def test_content_without_text_is_an_error(tmp_path):
    table = pa.table(
        {
            "item_id": pa.array([1, 2], pa.int64()),
            "image_vector": pa.array([[1.0], [2.0]], pa.list_(pa.float32())),
        }
    )
    with pytest.raises(DataError, match="NO_TEXT.*no column text"):
        run(tmp_path, table)
