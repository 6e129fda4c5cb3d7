"""Fingerprints and the watch over TFX's log."""

from __future__ import annotations

import logging
import os
import pathlib

import pytest
from absl import logging as absl_logging

from tfx_pipeline import progress, runner

pytestmark = pytest.mark.tf


def test_every_stage_has_files_of_its_own():
    for stage, places in runner._STAGES.items():
        for place in places:
            path = runner._PROJECT / place
            assert path.is_file() or list(path.rglob("*.py")), (stage, place)
    fingerprints = runner.code_fingerprints()
    assert len(set(fingerprints.values())) == len(runner._STAGES)
    assert runner.code_fingerprints() == fingerprints


def test_code_that_changes_changes_the_stages_that_use_it(
    tmp_path, monkeypatch
):
    for places in runner._STAGES.values():
        for place in places:
            source = runner._PROJECT / place
            files = [source] if source.is_file() else source.rglob("*.py")
            for file in files:
                copy = tmp_path / file.relative_to(runner._PROJECT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())
    monkeypatch.setattr(runner, "_PROJECT", tmp_path)
    before = runner.code_fingerprints()

    def changed_by(name):
        path = tmp_path / name
        text = path.read_bytes()
        path.write_bytes(text + b"#")
        after = runner.code_fingerprints()
        path.write_bytes(text)
        return {stage for stage in before if after[stage] != before[stage]}

    assert changed_by("tfx_pipeline/transforms/request_join.py") == {"join"}
    assert changed_by("tfx_pipeline/data/validation.py") == {
        "join",
        "items",
        "content",
    }
    assert changed_by("tfx_pipeline/preprocessing.py") == {"transform"}
    assert changed_by("tfx_pipeline/trainer.py") == {"trainer"}
    # Work on the ranker does not train the item embeddings again.
    assert changed_by("muse_keras/models/muse.py") == {"trainer"}
    assert changed_by("tfx_pipeline/scl/trainer.py") == {"scl"}
    assert changed_by("muse_keras/models/scl.py") == {"scl", "trainer"}
    assert changed_by("tfx_pipeline/data/text_features.py") == {"content"}
    assert changed_by("tfx_pipeline/data/item_text.py") == {"embedder"}
    assert changed_by("tfx_pipeline/matching/index.py") == {"matching"}
    assert changed_by("tfx_pipeline/evaluation/gauc.py") == {"evaluator"}
    assert changed_by("muse_keras/metrics/per_group_auc.py") == {
        "trainer",
        "evaluator",
    }


def write_tables(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    for name in ("train_samples", "item_features"):
        (folder / f"{name}.parquet").write_bytes(b"abc")
    return folder


def test_raw_fingerprint_notices_other_tables(tmp_path):
    folder = write_tables(tmp_path / "raw")
    first = runner.raw_fingerprint(str(folder))
    assert runner.raw_fingerprint(str(folder)) == first
    path = folder / "item_features.parquet"
    seen = {first}
    path.write_bytes(b"abcd")
    seen.add(runner.raw_fingerprint(str(folder)))
    # The same size at another time.
    path.write_bytes(b"abce")
    os.utime(path, ns=(1, 1))
    seen.add(runner.raw_fingerprint(str(folder)))
    (folder / "test_samples.parquet").write_bytes(b"x")
    seen.add(runner.raw_fingerprint(str(folder)))
    assert len(seen) == 4


def test_each_table_of_the_embeddings_has_a_fingerprint(tmp_path):
    folder = write_tables(tmp_path / "raw")
    for name in ("item_content", "search_events"):
        (folder / f"{name}.parquet").write_bytes(b"abc")
    before = runner.search_fingerprints(str(folder))
    samples = runner.raw_fingerprint(str(folder))

    def changed_by(name):
        path = folder / f"{name}.parquet"
        path.write_bytes(path.read_bytes() + b"d")
        after = runner.search_fingerprints(str(folder))
        return {table for table in after if after[table] != before[table]}

    assert set(before) == {"item_content", "search_events", "item_features"}
    assert changed_by("train_samples") == set()
    samples_after = runner.raw_fingerprint(str(folder))
    assert samples_after != samples
    assert changed_by("search_events") == {"search_events"}
    assert changed_by("item_content") == {"search_events", "item_content"}
    # And the join does not run again for new searches.
    assert runner.raw_fingerprint(str(folder)) == samples_after


EMBEDDING_NODES = {
    "imported": [],
    "text_svd": ["ItemContentGen", "TextEmbedder"],
    "learned": [
        "ItemContentGen",
        "SearchExampleGen",
        "SCLTrainer",
        "ItemEmbedder",
    ],
}


@pytest.mark.parametrize("source", EMBEDDING_NODES)
def test_only_what_makes_the_embeddings_is_in_the_graph(tmp_path, source):
    from tfx_pipeline import config as config_lib

    folder = write_tables(tmp_path / "raw")
    config = config_lib.PipelineConfig(
        output_dir=str(tmp_path),
        data=config_lib.DataConfig(raw_dir=str(folder)),
        item_embeddings=source,
    )
    nodes = {
        node.id: node for node in runner.compile_pipeline(config).components
    }
    others = {name for names in EMBEDDING_NODES.values() for name in names}
    assert others & set(nodes) == set(EMBEDDING_NODES[source])
    channel = nodes["ItemTableGen"].inputs.get("embeddings")
    makers = EMBEDDING_NODES[source]
    assert (channel and channel.producer_component_id) == (
        makers[-1] if makers else None
    )
    imported = nodes["RequestExampleGen"].exec_properties["imported_embeddings"]
    assert imported == (source == "imported")
    # Nothing upstream of the embeddings knows the ranker's settings.
    for name in makers:
        assert "trainer" not in nodes[name].exec_properties
        upstream = {node.id for node in nodes[name].upstream_nodes}
        assert upstream <= set(makers)


def test_watch_reports_components_and_restores_logging(tmp_path):
    root = logging.getLogger()
    before = (root.handlers[:], root.level, absl_logging.get_verbosity())
    lines = []
    log_path = tmp_path / "logs" / "run.log"
    with runner._watched(log_path, lines.append) as watch:
        absl_logging.info("Component %s is running.", "Trainer")
        progress.report("step 1")
        absl_logging.info("Component Trainer is finished.")
        absl_logging.info("Component Pusher is running.")
        absl_logging.info("A cached execution 5 is used.")
        absl_logging.info("Component Pusher is finished.")
        absl_logging.info("Component Last is running.")
    assert watch.component == "Last"
    assert lines[:2] == ["Trainer …", "step 1"]
    assert lines[2].startswith("Trainer done in ")
    assert lines[4].startswith("Pusher from the cache in ")
    assert lines[5:] == ["Last …"]
    text = log_path.read_text()
    assert "step 1" in text and "A cached execution 5" in text
    assert (root.handlers, root.level, absl_logging.get_verbosity()) == before


def test_failure_is_one_line_with_component_reason_and_log():
    failure = runner.ComponentFailed(
        "Trainer", "no data.", pathlib.Path("/x/run.log")
    )
    assert str(failure) == "Trainer failed: no data. Log: /x/run.log"
