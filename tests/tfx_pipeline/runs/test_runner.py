"""The graph that is run, and the watch over TFX's log."""

from __future__ import annotations

import logging
import pathlib

import pytest
from absl import logging as absl_logging
from tfx.dsl.compiler import compiler

from schemas.ranking_schema import RankingSchema, preset
from schemas.settings_file import ConfigError
from serving import files
from tfx_pipeline import config as config_lib
from tfx_pipeline import progress
from tfx_pipeline.runs import run_log, runner

pytestmark = pytest.mark.tf


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

    folder = tmp_path / "raw"
    folder.mkdir()
    for name in ("train_samples", "item_features"):
        (folder / f"{name}.parquet").write_bytes(b"abc")
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


@pytest.mark.parametrize("source", ["learned", "text_svd"])
def test_every_documented_encoder_makes_a_graph(tmp_path, monkeypatch, source):
    """Each with a key of its own, the two names of the built-in one too."""
    from tfx_pipeline import config as config_lib

    folder = tmp_path / "raw"
    folder.mkdir()
    for name in ("train_samples", "item_features"):
        (folder / f"{name}.parquet").write_bytes(b"abc")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_encoder.py").write_text("def encode(texts): ...")
    keys = set()
    names = ("", "hashed_ngrams", "sentence:some/model", "own_encoder:encode")
    for name in names:
        config = config_lib.PipelineConfig(
            output_dir=str(tmp_path),
            data={"raw_dir": str(folder)},
            item_embeddings=source,
            scl={"text_encoder": name},
        )
        (node,) = (
            node
            for node in runner.compile_pipeline(config).components
            if node.id == "ItemContentGen"
        )
        keys.add(str(sorted(node.exec_properties.items())))
    assert len(keys) == len(names)


def test_a_declaration_that_changes_changes_the_graph(tmp_path):
    """ImportSchemaGen reads a file whose name stays the same."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for name in ("train_samples", "item_features"):
        (folder / f"{name}.parquet").write_bytes(b"abc")
    config = config_lib.PipelineConfig(
        output_dir=str(tmp_path), data={"raw_dir": str(folder)}
    )

    def parameters(declared):
        if declared is not None:
            (folder / "schema.yaml").write_text(declared.yaml())
        graph = compiler.Compiler().compile(runner.compile_pipeline(config))
        return {
            node.pipeline_node.node_info.id: (
                node.pipeline_node.parameters.SerializeToString(
                    deterministic=True
                )
            )
            for node in graph.nodes
        }

    def changed(declared):
        """The components that run again."""
        found = parameters(declared)
        return {name for name in before if found[name] != before[name]}

    declared = preset("taobao_mm")
    before = parameters(None)
    assert not changed(declared)
    other = declared.model_dump()
    other["features"]["user"]["age"] = {"column": "131_1"}
    features_too = {"ImportSchemaGen", "Transform", "RankerTrainer"}
    tables = {"RequestExampleGen", "ItemTableGen"}
    assert changed(RankingSchema(**other)) >= features_too | tables
    other = declared.model_dump()
    other["features"]["item"]["city"] = {"column": "another"}
    found = changed(RankingSchema(**other))
    assert found >= tables and "ImportSchemaGen" not in found


def test_a_folder_that_another_run_writes_to_is_refused(tmp_path):
    config = config_lib.PipelineConfig(
        output_dir=str(tmp_path), data={"raw_dir": str(tmp_path / "none")}
    )
    # A lock of the kernel is one of an open file: a second one is another's.
    with files.locked(tmp_path / ".lock") as mine:
        assert mine
        with pytest.raises(ConfigError, match="no other run") as error:
            runner.run(config, print)
    assert str(tmp_path) in str(error.value)
    with pytest.raises(ValueError, match="not a directory"):
        runner.run(config, print)


def test_watch_reports_components_and_restores_logging(tmp_path):
    root = logging.getLogger()
    before = (root.handlers[:], root.level, absl_logging.get_verbosity())
    lines = []
    log_path = tmp_path / "logs" / "run.log"
    with run_log.watched(log_path, lines.append) as watch:
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
    failure = run_log.ComponentFailed(
        "Trainer", "no data.", pathlib.Path("/x/run.log")
    )
    assert str(failure) == "Trainer failed: no data. Log: /x/run.log"
