"""Item embeddings: what Beam writes, against the model called directly."""

from __future__ import annotations

import json
import pathlib

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from muse_tools.datasets.errors import DataError
from muse_tools.datasets.item_content import ItemContent, ItemContentWriter
from tests.tfx_pipeline.scl import toy_search
from tfx_pipeline.components import item_embeddings
from tfx_pipeline.components.artifacts import (
    TABLE_DIR,
    ItemContentArtifact,
    ItemEmbeddingsArtifact,
    ItemTableArtifact,
)
from tfx_pipeline.components.item_embedder import ItemEmbedder
from tfx_pipeline.components.item_table_gen import ItemTableGen

pytestmark = pytest.mark.tf

WEIGHTS = np.random.default_rng(1).normal(size=(12, 128)).astype(np.float32)


class Tower(tf.Module):
    """Stands for a trained tower: a projection, scaled to a length."""

    def __init__(self, length: float) -> None:
        super().__init__()
        self.weights = tf.Variable(WEIGHTS)
        self.length = length

    @tf.function(
        input_signature=[tf.TensorSpec([None, 12], tf.float32, name="image")]
    )
    def embed_items(self, image):
        vectors = tf.matmul(image, self.weights)
        return {
            "embedding": self.length * tf.math.l2_normalize(vectors, axis=1)
        }


def embed(content, folder, length=1.0):
    """Runs the component; returns its artifact."""
    model = standard_artifacts.Model()
    model.uri = str(folder / "model")
    tower = Tower(length)
    tf.saved_model.save(
        tower,
        str(folder / "model" / "Format-Serving"),
        signatures={"embed_items": tower.embed_items},
    )
    item_content = ItemContentArtifact()
    item_content.uri = str(content.path.parent)
    artifact = ItemEmbeddingsArtifact()
    artifact.uri = str(folder / "embeddings")
    ItemEmbedder.test_call(
        model,
        item_content,
        artifact,
        block_items=25,
        beam_pipeline=beam.Pipeline(),
    )
    return artifact


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    folder = tmp_path_factory.mktemp("content") / "content"
    known = toy_search.write_content(folder.with_name("all"))
    features = known.features(np.arange(len(known)))
    # One item has nothing that the tower reads.
    features["image"][7] = 0
    with ItemContentWriter(folder, toy_search.WIDTHS) as writer:
        writer.add(known.item_ids, features)
    return ItemContent.open(folder)


@pytest.fixture(scope="module")
def embedded(content, tmp_path_factory):
    return embed(content, tmp_path_factory.mktemp("embedded"))


def read(artifact):
    folder = pathlib.Path(artifact.uri) / "embeddings"
    files = sorted(folder.glob("*.parquet"))
    found = {}
    for file in files:
        table = pq.read_table(file)
        assert [str(kind) for kind in table.schema.types] == [
            "int64",
            "list<element: int8>",
        ]
        for row in table.to_pylist():
            found[row["item_id"]] = row["item_vector"]
    return files, found


def expected(content):
    vectors = content.features(np.arange(len(content)))["image"] @ WEIGHTS
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norms, 1e-12)


def test_every_item_with_content_has_its_codes(content, embedded):
    files, found = read(embedded)
    # Blocks of 25 of 60 items.
    assert [file.name.split("-", 1)[1] for file in files] == [
        f"0000{number}-of-00003.parquet" for number in range(3)
    ]
    vectors = expected(content)
    ids = np.asarray(content.item_ids)
    assert sorted(found) == sorted(np.delete(ids, 7).tolist())
    for item, codes in found.items():
        exact = 127 * vectors[content.rows_of([item])[0]]
        difference = np.asarray(codes) - np.trunc(exact)
        # Rounding of the product may move what lies on an edge.
        near = np.abs(exact - np.round(exact)) < 1e-3
        assert not difference[~near].any()


def test_report_adds_up(content, embedded):
    found = json.loads((pathlib.Path(embedded.uri) / "report.json").read_text())
    assert found["items"] == 60
    assert (found["with_vector"], found["without_vector"]) == (59, 1)
    _, codes = read(embedded)
    norms = np.linalg.norm(np.array(list(codes.values())) / 127, axis=1)
    assert found["code_norm"]["mean"] == pytest.approx(norms.mean())
    assert found["code_norm"]["min"] == pytest.approx(norms.min())
    assert found["code_norm"]["max"] == pytest.approx(norms.max())
    assert 0.9 < found["int8"]["recall"] <= 1
    assert embedded.get_int_custom_property("num_items") == 59


def test_int8_recall_against_sorting():
    rng = np.random.default_rng(4)
    # Close together, so that codes do confuse neighbors.
    vectors = rng.normal(size=(80, 128)) * 0.2 + rng.normal(size=128)
    vectors = (vectors / np.linalg.norm(vectors, axis=1)[:, None]).astype("f4")
    found = item_embeddings.int8_recall(vectors, k=5, queries=1000)
    codes = np.trunc(127 * vectors.astype(np.float64))
    overlap = 0
    for item in range(80):
        others = [other for other in range(80) if other != item]

        def nearest(cosine, others=others):
            return set(sorted(others, key=lambda o: -cosine[o])[:5])

        exact = vectors @ vectors[item]
        lengths = np.linalg.norm(codes, axis=1) * np.linalg.norm(codes[item])
        overlap += len(nearest(exact) & nearest(codes @ codes[item] / lengths))
    assert found["queries"] == 80
    assert found["recall"] == pytest.approx(overlap / (80 * 5))
    assert found["recall"] < 1
    equal = np.repeat(vectors[:1], 9, axis=0)
    assert item_embeddings.int8_recall(equal, k=3, queries=9)["recall"] == 1


def test_vectors_that_are_not_unit_are_refused(content, tmp_path):
    with pytest.raises(Exception, match="NOT_UNIT.*has length 2") as info:
        embed(content, tmp_path, length=2.0)
    assert str(content.item_ids[0]) in str(info.value)


def test_embedding_nothing_is_an_error(tmp_path):
    with ItemContentWriter(tmp_path / "content", {"image": 12}) as writer:
        writer.add([1, 2], {"image": np.zeros((2, 12))})
    with pytest.raises(DataError, match="NO_VECTORS"):
        embed(ItemContent.open(tmp_path / "content"), tmp_path)


def test_item_table_takes_them_instead_of_the_raw_table(
    content, embedded, tmp_path
):
    toy_search.write_item_features(tmp_path / "raw")
    table = ItemTableArtifact()
    table.uri = str(tmp_path / "table")
    ItemTableGen.test_call(
        table,
        raw_dir=str(tmp_path / "raw"),
        raw_fingerprint="",
        rejected_dir=str(tmp_path / "rejected"),
        embeddings=embedded,
        beam_pipeline=beam.Pipeline(),
    )
    from muse_keras.tables import ItemTable

    written = ItemTable.open(tmp_path / "table" / TABLE_DIR)
    _, found = read(embedded)
    for item, codes in found.items():
        row = written.rows(item)
        assert written.codes[row].tolist() == codes
        assert written.features["category"][row] > 0
    bare = written.rows(int(content.item_ids[7]))
    assert bare > 0 and not written.codes[bare].any()
    counts = json.loads((tmp_path / "rejected" / "counts.json").read_text())
    assert counts["items_without_embedding"] == 1
    assert counts["read/embeddings"] == 59
