"""Clusters of items: k-means by hand, and the files that Beam writes."""

from __future__ import annotations

import apache_beam as beam
import numpy as np
import pytest

from muse_keras.tables import ItemTable
from tfx_pipeline.matching import clusters, inputs
from tfx_pipeline.matching.settings import CENTROIDS_FILE, CLUSTERS_PREFIX


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_separate_directions_become_clusters():
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(16, 16)))[0][:5]
    kind = rng.integers(0, 5, 400)
    noise = rng.normal(scale=0.02, size=(400, 16))
    vectors = unit(directions[kind] + noise).astype(np.float32)
    centroids = clusters.fit(vectors, 12, rng)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    place = clusters.nearest(vectors, centroids)
    assert len(np.unique(place)) > 1
    for cluster in np.unique(place):
        assert len(np.unique(kind[place == cluster])) == 1


def test_rounds_bring_vectors_nearer_to_their_centroids():
    rng = np.random.default_rng(1)
    vectors = unit(rng.normal(size=(500, 8))).astype(np.float32)
    centroids = clusters.fit(vectors, 20, np.random.default_rng(2))
    drawn = vectors[np.random.default_rng(2).choice(500, 20, replace=False)]

    def mean_cosine(of):
        return (vectors @ of.T).max(axis=1).mean()

    assert mean_cosine(centroids) > mean_cosine(drawn) + 0.02


@pytest.mark.parametrize("rows", [1, 3, 20_000])
def test_nearest_is_the_largest_cosine(rows):
    rng = np.random.default_rng(rows)
    vectors = rng.normal(size=(rows, 6)).astype(np.float32)
    centroids = unit(rng.normal(size=(9, 6))).astype(np.float32)
    expected = np.argmax(np.einsum("nd,cd->nc", vectors, centroids), axis=1)
    np.testing.assert_array_equal(
        clusters.nearest(vectors, centroids), expected
    )


def test_equal_vectors_and_fewer_vectors_than_clusters_are_no_error():
    same = np.tile(unit(np.ones((1, 4))), (30, 1)).astype(np.float32)
    found = clusters.fit(same, 10, np.random.default_rng(0))
    np.testing.assert_allclose(found, same[:10], atol=1e-6)


def test_files_of_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "_ITEMS", 64)
    rng = np.random.default_rng(3)
    codes = rng.integers(-127, 128, (200, 8)).astype(np.int8)
    codes[::7] = 0
    table = ItemTable.write(
        tmp_path / "table", np.arange(1, 201), codes, {}, "test"
    )
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        with beam.Pipeline() as pipeline:
            inputs.write_clusters(
                pipeline, str(table.path), str(tmp_path / folder), seed=4
            )
    files = sorted(tmp_path.glob(f"one/{CLUSTERS_PREFIX}*"))
    assert len(files) == 4
    found = np.concatenate([np.load(file) for file in files])
    centroids = np.load(tmp_path / "one" / CENTROIDS_FILE)
    assert centroids.shape == (14, 8)
    cosines = unit(codes[codes.any(axis=1)].astype(float)) @ centroids.T
    np.testing.assert_array_equal(found == -1, ~codes.any(axis=1))
    np.testing.assert_array_equal(found[found >= 0], np.argmax(cosines, axis=1))
    # The seed decides.
    for file in tmp_path.glob("one/*"):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_a_table_without_vectors_has_no_clusters(tmp_path):
    table = ItemTable.write(
        tmp_path / "table",
        np.arange(1, 6),
        np.zeros((5, 4), np.int8),
        {},
        "test",
    )
    assert clusters.of_table(table).shape == (0, 4)
    with beam.Pipeline() as pipeline:
        inputs.write_clusters(pipeline, str(table.path), str(tmp_path), 0)
    assert not [*tmp_path.glob("*.npy")]
