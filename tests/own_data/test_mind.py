"""MIND's published files, by the documented reader, to a served model."""

from __future__ import annotations

import json
import runpy

import numpy as np
import pytest

from tests.docs.test_docs import ROOT
from tests.own_data import mind, running

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.once,
    pytest.mark.tf,
    pytest.mark.timeout(1800),
]
READER = ROOT / "examples" / "mind_reader.py"


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    root = tmp_path_factory.mktemp("mind")
    mind.write(root)
    main = runpy.run_path(str(READER))["main"]
    main(root / "train", root / "dev", root / "tables")
    return root / "tables"


def test_the_tables_are_sound(tables):
    from muse_tools.datasets import inspection

    found = inspection.inspect(tables)
    assert found["ok"] and found["schema"] == "mind"
    for split in ("train", "test"):
        samples = found["samples"][split]
        assert samples["accepted"] == 150 * 2 * 6 and samples["joined"] == 1
        assert found["users"][split]["accepted"] == 150
    assert found["items"]["accepted"] == 160


def test_readers_get_what_they_read(tables):
    """A reader of sports is shown an article of each category.

    Two workers train, each with half of the rows of articles and users.
    """
    from serving.client import MuseClient, RankRequest

    config = running.run(
        tables.parent,
        tables,
        item_embeddings="text_svd",
        trainer={"epochs": 5, "workers": 2, "divided_rows": 100},
    )
    # Nobody held these tables whole; the server reads them from files.
    (export,) = config.push_dir.glob("*/assets.extra/muse_export.json")
    variables = json.loads(export.read_text("utf-8"))["variables"]
    files = {name for name in variables if name.endswith(".shard_0")}
    assert files == {
        f"{name}.shard_0"
        for name in (
            "item_embedding.embeddings",
            "table.codes",
            "table.inverse_norms",
        )
    }
    of = mind.topics()
    shown = [int(np.flatnonzero(of == topic)[0]) for topic in range(4)]
    requests = [
        RankRequest(
            "U0",
            candidate_item_ids=[f"N{n}" for n in shown],
            behavior_item_ids=[
                f"N{n}" for n in np.flatnonzero(of == likes)[1:6]
            ],
            context={"hour": 9},
        )
        for likes in range(4)
    ]
    schema = str(tables / "schema.yaml")
    with running.served(config) as target:
        with MuseClient(target, schema=schema) as client:
            ranked = client.rank(requests)
    for likes, one in enumerate(ranked):
        scores = one.click_probability
        assert np.argmax(scores) == likes
        # 0.8 and 0.1 in truth.
        assert scores[likes] > 0.6 and np.delete(scores, likes).max() < 0.35
