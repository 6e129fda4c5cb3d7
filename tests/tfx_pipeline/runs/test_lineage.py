"""What an artifact was made from, in a store written by hand."""

from __future__ import annotations

import json
import pathlib
import types

import pytest

pytestmark = pytest.mark.tf


@pytest.fixture
def store(tmp_path):
    """Runs: data (1), data from the cache (2), trainer (3), another (4)."""
    from ml_metadata.metadata_store import metadata_store
    from ml_metadata.proto import metadata_store_pb2 as mlmd

    path = tmp_path / "metadata.sqlite"
    connection = mlmd.ConnectionConfig()
    connection.sqlite.filename_uri = str(path)
    connection.sqlite.connection_mode = 3
    opened = metadata_store.MetadataStore(connection)
    kind = opened.put_execution_type(mlmd.ExecutionType(name="component"))
    things = opened.put_artifact_type(mlmd.ArtifactType(name="thing"))
    nodes = opened.put_context_type(mlmd.ContextType(name="node"))

    def run(name, inputs=(), outputs=(), **properties):
        (made,) = opened.put_executions(
            [
                mlmd.Execution(
                    type_id=kind,
                    last_known_state=mlmd.Execution.COMPLETE,
                    custom_properties={
                        key: mlmd.Value(string_value=value)
                        for key, value in properties.items()
                    },
                )
            ]
        )
        (node,) = opened.put_contexts(
            [mlmd.Context(type_id=nodes, name=f"pipeline.{name}")]
        )
        opened.put_attributions_and_associations(
            [], [mlmd.Association(execution_id=made, context_id=node)]
        )
        for direction, artifacts in (
            (mlmd.Event.INPUT, inputs),
            (mlmd.Event.OUTPUT, outputs),
        ):
            for artifact in artifacts:
                event = mlmd.Event(
                    execution_id=made, artifact_id=artifact, type=direction
                )
                event.path.steps.add().key = "thing"
                opened.put_events([event])
        return made

    def thing(uri):
        artifact = mlmd.Artifact(type_id=things, uri=uri)
        return opened.put_artifacts([artifact])[0]

    examples, other, model = thing("/examples"), thing("/o"), thing("/model")
    run(
        "Examples",
        outputs=[examples],
        raw_dir="the/data",
        raw_fingerprint="da7a",
        code_fingerprint="c0",
        rejected_dir="/somewhere",
    )
    run("Other", outputs=[other], code_fingerprint="no")
    run(
        "Trainer",
        inputs=[examples],
        outputs=[model],
        custom_config=json.dumps({"code_fingerprint": "c1", "seed": 7}),
        run_fn="train",
    )
    return types.SimpleNamespace(
        config=types.SimpleNamespace(metadata_path=path, metadata=""),
        again=lambda: run("Again", outputs=[examples], raw_fingerprint="new"),
    )


def test_origins_are_the_runs_that_made_the_inputs(store):
    from tfx_pipeline.runs import lineage

    store.again()
    found = lineage.origins(store.config, pathlib.Path("/model"))
    assert [row.pop("execution") for row in found] == [1, 3]
    assert all(row.pop("finished").startswith("20") for row in found)
    assert found == [
        {
            "component": "Examples",
            "code": "c0",
            "data": "da7a",
            "place": "the/data",
            "parameters": {},
        },
        {
            "component": "Trainer",
            "code": "c1",
            "data": "",
            "place": "",
            "parameters": {"seed": 7, "run_fn": "train"},
        },
    ]


def test_an_artifact_without_an_execution_has_no_origins(store):
    from tfx_pipeline.runs import lineage

    assert lineage.origins(store.config, pathlib.Path("/none")) == []


@pytest.mark.parametrize("kept", [0.2, 0.6, 0.95])
def test_a_truncated_file_is_one_clear_line(store, kept):
    from muse_tools.datasets.errors import DataError
    from tfx_pipeline.runs import lineage

    path = store.config.metadata_path
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(DataError, match="metadata.sqlite is damaged") as error:
        lineage.last_executions(store.config)
    assert "SELECT" not in str(error.value) and "\n" not in str(error.value)


def test_the_password_of_a_server_comes_from_the_environment(monkeypatch):
    from schemas.settings_file import ConfigError
    from tfx_pipeline import config as config_lib
    from tfx_pipeline.runs import lineage

    config = config_lib.PipelineConfig(
        output_dir="x",
        data={"raw_dir": "x"},
        metadata="mysql://muse@metadata.example/mlmd",
    )
    monkeypatch.delenv(lineage.PASSWORD, raising=False)
    with pytest.raises(ConfigError, match=lineage.PASSWORD):
        lineage.connection(config)
    monkeypatch.setenv(lineage.PASSWORD, "hunter2")
    found = lineage.connection(config).mysql
    assert (found.host, found.port) == ("metadata.example", 3306)
    assert (found.user, found.password) == ("muse", "hunter2")
    assert found.database == "mlmd"
