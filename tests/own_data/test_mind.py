"""MIND's published files, by the documented reader, to the pipeline's Examples.

From there the way of all data is the same.
"""

from __future__ import annotations

import runpy

import apache_beam as beam
import numpy as np
import pytest
from tfx.types import standard_artifacts

from schemas.hashing import stable_id
from tests.docs.test_docs import ROOT
from tests.own_data import mind
from tests.tfx_pipeline.transforms.test_request_join import read_examples
from tfx_pipeline.components.request_example_gen import RequestExampleGen

pytestmark = [pytest.mark.once, pytest.mark.tf]
READER = ROOT / "examples" / "mind_reader.py"


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    root = tmp_path_factory.mktemp("mind")
    mind.write(root)
    main = runpy.run_path(str(READER))["main"]
    main(root / "train", root / "dev", root / "tables")
    return root / "tables"


@pytest.fixture(scope="module")
def examples(tables, tmp_path_factory):
    root = tmp_path_factory.mktemp("examples")
    artifact = standard_artifacts.Examples()
    artifact.uri = str(root / "examples")
    RequestExampleGen.test_call(
        artifact,
        raw_dir=str(tables),
        raw_fingerprint="",
        rejected_dir=str(root / "rejected"),
        max_candidates=64,
        max_rejected_fraction=0.0,
        join_partitions=1,
        imported_embeddings=False,
        beam_pipeline=beam.Pipeline(),
    )
    return root / "examples"


def test_the_tables_are_sound(tables):
    from muse_tools.datasets import inspection

    found = inspection.inspect(tables)
    assert found["ok"] and found["schema"] == "mind"
    for split in ("train", "test"):
        samples = found["samples"][split]
        assert samples["accepted"] == 150 * 2 * 6 and samples["joined"] == 1
        assert found["users"][split]["accepted"] == 150
    assert found["items"]["accepted"] == 160


@pytest.mark.parametrize("split", ["train", "eval"])
def test_readers_click_on_what_they_have_read(examples, split):
    """As 0.8 and 0.1 in truth, with the features of what they see.

    How a model learns from texts and is served is seen in test_movies.py, with
    ids that are texts in test_shop.py.
    """
    topic = mind.topics()
    news = {stable_id("item_id", f"N{n}"): n for n in range(len(topic))}
    readers = {stable_id("user_id", f"U{n}"): n for n in range(150)}
    clicks: dict[bool, list[int]] = {True: [], False: []}
    lengths = set()
    for one in read_examples(examples / f"Split-{split}"):
        likes = readers[one["user_id"][0]] % len(mind.CATEGORIES)
        lengths.add(len(one["behavior_item_ids"]))
        for group in ("behavior", "candidate"):
            seen = [news[item] for item in one[f"{group}_item_ids"]]
            for name, texts in (
                ("category", [mind.CATEGORIES[topic[n]] for n in seen]),
                (
                    "subcategory",
                    [f"{mind.CATEGORIES[topic[n]]}{n % 3}" for n in seen],
                ),
            ):
                wanted = [stable_id(f"item_{name}", text) for text in texts]
                assert one[f"{group}_{name}"] == wanted
            if group == "behavior":
                assert {*topic[seen]} <= {likes}
        for place, click in zip(topic[seen], one["clicks"], strict=True):
            clicks[bool(place == likes)].append(click)
        # From 1 to 11 in the morning or afternoon, and 0 is missing.
        assert {*one["context_hour"]} <= {*range(2, 13), *range(14, 25)}
    assert len(clicks[True] + clicks[False]) == 150 * 2 * 6
    assert lengths == {*range(9)}
    assert np.mean(clicks[True]) == pytest.approx(0.8, abs=0.06)
    assert np.mean(clicks[False]) == pytest.approx(0.1, abs=0.03)
