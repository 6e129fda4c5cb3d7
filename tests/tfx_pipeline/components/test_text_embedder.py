"""Item embeddings from texts alone."""

from __future__ import annotations

import json
import pathlib

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muse_tools.datasets import item_text, table_writer
from muse_tools.datasets.errors import DataError
from schemas.hashing import stable_id
from tfx_pipeline.components import text_embedder
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


def run(folder, table, block_items=100):
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
        block_items=block_items,
        beam_pipeline=beam.Pipeline(),
    )
    return artifact


def codes_of(artifact):
    """The codes of each item, and the number of files."""
    files = [*(pathlib.Path(artifact.uri) / "embeddings").glob("*.parquet")]
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    found = {row["item_id"]: np.array(row["item_vector"]) for row in rows}
    return found, len(files)


@pytest.mark.parametrize(("block_items", "files"), [(100, 1), (2, 3)])
def test_texts_become_codes_of_their_items(tmp_path, block_items, files):
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
        block_items,
    )
    codes, number = codes_of(artifact)
    assert number == files
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
    report = pathlib.Path(artifact.uri) / "report.json"
    found = json.loads(report.read_text())
    assert (found["items"], found["with_vector"]) == (5, 5)


def test_many_texts_are_embedded_by_what_some_of_them_teach(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(text_embedder, "LEARNED_TEXTS", 40)
    rng = np.random.default_rng(2)
    words = ["apple", "green", "red", "screw", "steel", "wood", "small"]
    texts = {
        f"{' '.join(rng.choice(words, 3))} {item % 90}": item
        for item in range(1, 200)
    }
    table = pa.table(
        {"item_id": [*texts.values()], "text": [*texts]},
    )
    codes, _ = codes_of(run(tmp_path, table, block_items=30))
    by_hash = sorted(texts, key=lambda text: stable_id("text", text))
    assert len(by_hash) > 100
    projection = item_text.TextProjection(by_hash[:40], seed=3)
    wanted = item_text.quantize(projection.vectors([*texts]))
    for item, code in zip(texts.values(), wanted, strict=True):
        np.testing.assert_array_equal(codes[item], code)


def test_content_without_text_is_an_error(tmp_path):
    table = pa.table(
        {
            "item_id": pa.array([1, 2], pa.int64()),
            "image_vector": pa.array([[1.0], [2.0]], pa.list_(pa.float32())),
        }
    )
    with pytest.raises(DataError, match="NO_TEXT.*no column text"):
        run(tmp_path, table)
