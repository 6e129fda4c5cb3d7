"""The ways to embed that need no training."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tfx_pipeline.scl import toy_search
from tfx_pipeline.scl import embedding, evaluation

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedding") / "content"
    return toy_search.write_content(folder)


def test_raw_cosine_is_the_mean_over_modalities():
    rng = np.random.default_rng(0)
    queries = {n: rng.normal(size=(4, w)) for n, w in (("a", 3), ("b", 5))}
    items = {n: rng.normal(size=(6, w)) for n, w in (("a", 3), ("b", 5))}
    items["a"][2] = 0
    items["b"][3] = 0
    raw = embedding.raw_modalities(("a", "b"))
    found = raw.queries(queries) @ raw.items(items).T
    for q in range(4):
        for i in range(6):
            cosines = []
            for name in ("a", "b"):
                one, two = queries[name][q], items[name][i]
                length = np.sqrt((one @ one) * (two @ two))
                cosines.append(one @ two / length if length else 0.0)
            assert found[q, i] == pytest.approx(np.mean(cosines), abs=1e-6)


def test_content_is_embedded_once_and_in_order(content):
    ids = []

    def embed(features):
        ids.append(len(features["image"]))
        return features["image"]

    parts = list(embedding.embed_content(embed, content, slice(5, 50), 20))
    assert ids == [20, 20, 5]
    assert [(rows.start, rows.stop) for rows, _ in parts] == [
        (5, 25),
        (25, 45),
        (45, 50),
    ]
    np.testing.assert_array_equal(
        np.concatenate([vectors for _, vectors in parts]),
        content.features(np.arange(5, 50))["image"],
    )


def test_held_out_events_are_taken_evenly(content, tmp_path):
    pattern, events = toy_search.write_events(tmp_path, 50, files=1)
    widths = {"image": 12}
    found = evaluation.read_held_out([pattern], content, widths, 5)
    assert found.events == 50
    wanted = [events[i] for i in (0, 12, 24, 37, 49)]
    np.testing.assert_array_equal(
        found.queries["image"], np.float32([e["query_image"] for e in wanted])
    )
    assert content.item_ids[found.rows].tolist() == [
        e["purchased_item_id"][0] for e in wanted
    ]
    everything = evaluation.read_held_out([pattern], content, widths, 99)
    assert len(everything.rows) == 50


def test_recall_of_every_method_against_sorting(content, tmp_path):
    pattern, _ = toy_search.write_events(tmp_path, 40)
    held_out = evaluation.read_held_out([pattern], content, {"image": 12}, 40)
    categories = np.arange(len(content)) % toy_search.CATEGORIES
    embedders = {
        "raw": embedding.raw_modalities(("image",)),
        "random": embedding.by_chance(0, 8),
    }
    found = evaluation.evaluate(
        embedders, held_out, content, categories, tmp_path
    )
    assert (found["queries"], found["items"]) == (40, 60)
    queries = held_out.queries["image"]
    items = content.features(np.arange(60))["image"]
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    for k in (1, 10):
        hits = {"all": 0, "same_category": 0}
        for query, row in zip(queries, held_out.rows, strict=True):
            order = np.argsort(-(items @ query)).tolist()
            hits["all"] += row in order[:k]
            alike = [i for i in order if categories[i] == categories[row]]
            hits["same_category"] += row in alike[:k]
        for scope, count in hits.items():
            at = found["methods"]["raw"][scope][str(k)]
            assert at["value"] == pytest.approx(count / 40)
            assert at["lower"] <= at["value"] <= at["upper"]
    # Nothing of the working folder is left.
    assert not list(tmp_path.glob("tmp*"))
