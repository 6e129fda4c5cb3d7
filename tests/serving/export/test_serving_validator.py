"""ServingValidator with a real server: what it checks, and what it does when
the server fails. Here, for the export that these tests share.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import signal
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from muse_keras.tables import ItemTable
from serving.client import MuseClient, TensorSpec
from serving.local_server import (
    ServerAddress,
    ServerDidNotStart,
    local_server,
)
from tests.serving.export.kinds import (
    Kinds,
    example_values,
    expected_scores,
)
from tests.serving.export.kinds import make_requests as make_kinds_requests
from tests.serving.export.test_signatures import oracle_scores
from tests.serving.export.world import World, make_requests, to_example
from tests.tfx_pipeline import metadata

tf = pytest.importorskip("tensorflow")
tfx = pytest.importorskip("tfx.v1")

from tfx.types import standard_artifacts  # noqa: E402

from tfx_pipeline.components import (  # noqa: E402
    serving_checks as checks,
)
from tfx_pipeline.components import (  # noqa: E402
    serving_validator as executor,
)
from tfx_pipeline.components.artifacts import ItemTableArtifact  # noqa: E402
from tfx_pipeline.components.serving_validator import (  # noqa: E402
    ServingValidator,
)

pytestmark = pytest.mark.once


@dataclasses.dataclass
class Inputs:
    """Artifacts of the pipeline before the validator, as folders."""

    root: pathlib.Path
    world: World

    def __post_init__(self) -> None:
        requests = make_requests(self.world.item_table, 20, seed=11)
        self.requests = requests
        self.link("model/Format-Serving", self.world.export.path)
        self.link("items/table", self.world.item_table.path)
        examples = self.root / "examples" / "Split-eval"
        examples.mkdir(parents=True)
        with tf.io.TFRecordWriter(
            str(examples / "data.gz"), tf.io.TFRecordOptions("GZIP")
        ) as writer:
            for request in requests:
                writer.write(to_example(request))
        self.write_scores("run")
        self.write_scores("other_run", error=0.01)

    def link(self, name: str, target: pathlib.Path) -> None:
        (self.root / name).parent.mkdir()
        (self.root / name).symlink_to(target)

    def write_scores(self, name: str, error: float = 0.0) -> None:
        """What the trainer records of the model."""
        scores = [oracle_scores(self.world, one) for one in self.requests]
        scores[3] = scores[3] + error
        ids = [one["candidate_item_ids"] for one in self.requests]
        (self.root / name).mkdir()
        np.savez(
            self.root / name / "validation_scores.npz",
            user_id=np.concatenate([one["user_id"] for one in self.requests]),
            lengths=np.array([len(one) for one in ids]),
            candidate_item_ids=np.concatenate(ids),
            click_probability=np.concatenate(scores).astype(np.float32),
        )

    def replays(self) -> list[checks.Replay]:
        inputs = self.world.export.manifest["signatures"]["rank"]["inputs"]
        return executor._replays(
            self.root / "run" / "validation_scores.npz",
            str(self.root / "examples" / "Split-eval" / "*"),
            {
                name: TensorSpec(one["dtype"], tuple(one["shape"]))
                for name, one in inputs.items()
            },
        )

    def validate(self, run: str = "run", **settings: Any) -> dict[str, Any]:
        """Runs the executor; returns its report."""
        given = {
            "model": (standard_artifacts.Model(), "model"),
            "model_run": (standard_artifacts.ModelRun(), run),
            "examples": (standard_artifacts.Examples(), "examples"),
            "item_table": (ItemTableArtifact(), "items"),
        }
        for artifact, folder in given.values():
            artifact.uri = str(self.root / folder)
        given["examples"][0].split_names = '["eval"]'
        blessing = standard_artifacts.InfraBlessing()
        blessing.uri = tempfile.mkdtemp(dir=self.root)
        ServingValidator.test_call(
            blessing=blessing,
            **{name: artifact for name, (artifact, _) in given.items()},
            **{"timeout_s": 200.0, **settings},
        )
        folder = pathlib.Path(blessing.uri)
        report = json.loads((folder / executor.REPORT_FILE).read_text())
        assert (folder / "INFRA_BLESSED").exists() == report["blessed"]
        assert (folder / "INFRA_NOT_BLESSED").exists() != report["blessed"]
        return report

    def pipeline(self) -> Any:
        """A pipeline of the validator alone."""
        importers = {
            name: tfx.dsl.Importer(
                source_uri=str(self.root / folder),
                artifact_type=kind,
                properties=properties,
            ).with_id(name)
            for name, kind, folder, properties in (
                ("model", standard_artifacts.Model, "model", {}),
                ("model_run", standard_artifacts.ModelRun, "run", {}),
                (
                    "examples",
                    standard_artifacts.Examples,
                    "examples",
                    {"split_names": '["eval"]'},
                ),
                ("item_table", ItemTableArtifact, "items", {}),
            )
        }
        validator = ServingValidator(
            timeout_s=200.0,
            **{
                name: importer.outputs["result"]
                for name, importer in importers.items()
            },
        )
        return tfx.dsl.Pipeline(
            pipeline_name="validation",
            pipeline_root=str(self.root / "artifacts"),
            components=[*importers.values(), validator],
            enable_cache=True,
            metadata_connection_config=(
                tfx.orchestration.metadata.sqlite_metadata_connection_config(
                    str(self.root / "metadata.sqlite")
                )
            ),
        )


@pytest.fixture(scope="module")
def inputs(world: World, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("validator"), world)


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[MuseClient]:
    with MuseClient(server.grpc_target) as made:
        yield made


def test_every_exported_signature_has_a_check(world: World) -> None:
    exported = set(world.loaded.signatures)
    assert exported == set(world.export.manifest["signatures"])
    assert exported == set(checks.CHECKS)


def test_a_failure_of_the_server_is_no_verdict(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 3: an error, not "not blessed", and the rerun validates."""
    runner = tfx.orchestration.LocalDagRunner()
    database = inputs.root / "metadata.sqlite"

    def state_after(run: Any) -> str:
        last = metadata.last_execution(database)
        run()
        return metadata.states(database, last)["ServingValidator"]

    def fails(match: str) -> None:
        with pytest.raises(Exception, match=match):
            runner.run(inputs.pipeline())

    with monkeypatch.context() as broken:
        # The server's interpreter does not find its library.
        broken.setenv("PYTHONHOME", str(inputs.root))
        assert state_after(lambda: fails("did not start")) == "FAILED"
    explain = MuseClient.explain

    def kill_then_explain(self: MuseClient, *args: Any) -> Any:
        os.kill(server_of_this_process(), signal.SIGKILL)
        return explain(self, *args)

    with monkeypatch.context() as killed:
        killed.setattr(MuseClient, "explain", kill_then_explain)
        # A warmup takes most of the time of a start.
        cold = functools.partial(
            local_server, flags=["--enable_model_warmup=false"]
        )
        killed.setattr(executor.local_server, "local_server", cold)
        assert state_after(lambda: fails("UNAVAILABLE")) == "FAILED"
    run = lambda: runner.run(inputs.pipeline())  # noqa: E731
    assert state_after(run) == "COMPLETE"
    (blessed,) = inputs.root.glob("artifacts/**/INFRA_BLESSED")
    assert not list(inputs.root.glob("artifacts/**/INFRA_NOT_BLESSED"))
    check_report(
        json.loads((blessed.parent / executor.REPORT_FILE).read_text())
    )
    assert state_after(run) == "CACHED"


def server_of_this_process() -> int:
    """Process id of the model server that was started here last."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            parent = (folder / "stat").read_text().rsplit(")")[-1].split()[1]
        except OSError:
            continue
        if int(parent) == os.getpid() and b"serving.model_server" in command:
            found.append(int(folder.name))
    return max(found)


def check_report(report: dict[str, Any]) -> None:
    """The report of a model that answers as it was trained."""
    assert report["blessed"], report["verdict"]
    assert set(report["worst_difference"]) == set(checks.CHECKS)
    assert max(report["worst_difference"].values()) < 1e-5
    times = report["rank_ms"]
    assert 0 < times["p50"] <= times["p99"]
    assert report["requests"] == 20
    assert executor.judged(report | {"max_p99_ms": times["p99"]})[0]
    blessed, verdict = executor.judged(report | {"max_p99_ms": 1e-3})
    assert not blessed
    assert verdict.endswith(
        f"p99 {times['p99']:.1f} ms, over serving_validator.max_p99_ms 0.001"
    )


def test_another_item_table_is_found_out(
    inputs: Inputs, client: MuseClient, tmp_path: pathlib.Path
) -> None:
    # Before any test here, which stores items of the table in the server.
    table = inputs.world.item_table
    some = slice(1, None)  # Without the first item.
    other = ItemTable.write(
        tmp_path / "table",
        table.item_ids[some],
        np.roll(table.codes[1:][some], 1, axis=1),
        {name: column[1:][some] for name, column in table.features.items()},
        "test",
    )
    server = checks.Ranker(client, inputs.replays(), other)
    assert checks.CHECKS["resolve_items"](server) == 1
    assert checks.CHECKS["embed"](server) > 0.1


def test_wrong_scores_are_a_verdict(
    inputs: Inputs, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The server that runs already, instead of one more.
    address = ServerAddress(server.grpc_target, server.rest_url)
    monkeypatch.setattr(
        executor.local_server,
        "local_server",
        lambda *_, **__: contextlib.nullcontext(address),
    )
    report = inputs.validate("other_run")
    assert not report["blessed"]
    assert "largest difference 1.00e-02" in report["verdict"]
    scored = {"serving_default", "rank", "explain", "prefetch", "prefetch_rows"}
    for name, difference in report["worst_difference"].items():
        assert (difference > 5e-3) == (name in {*scored, "upsert_items"}), name


@pytest.mark.parametrize(
    ("signature", "method", "change"),
    [
        ("prefetch", "rank_cached", {"cache_hit": False}),
        ("prefetch", "rank_cached", {"generation": 77}),
        ("prefetch", "user_cache", {"cached_length": np.array([9])}),
        ("prefetch_rows", "rank_cached", {"cache_hit": False}),
        ("rank_cached", "rank_cached", {"cache_hit": True}),
        ("user_cache", "user_cache", {"cached_length": np.array([0])}),
        ("explain", "explain", {"similarities": np.array([np.nan])}),
        ("explain", "explain", {"behavior_indices": np.array([99])}),
        ("embed", "embed", {"found": np.array([False])}),
        ("upsert_items", "upsert_items", {"stored": np.array([False])}),
    ],
)
def test_an_answer_that_is_no_matter_of_degree(
    inputs: Inputs,
    client: MuseClient,
    monkeypatch: pytest.MonkeyPatch,
    signature: str,
    method: str,
    change: dict[str, Any],
) -> None:
    call = getattr(client, method)

    def changed(*args: Any) -> Any:
        answer = call(*args)
        if "behavior_indices" in change:
            extra = {"retrieved": np.array([True])}
        else:
            extra = {}
        if isinstance(answer, list):
            return [dataclasses.replace(a, **change, **extra) for a in answer]
        return dataclasses.replace(answer, **change, **extra)

    monkeypatch.setattr(client, method, changed)
    server = checks.Ranker(client, inputs.replays(), inputs.world.item_table)
    with pytest.raises(checks.WrongAnswer, match=f"^{method}: "):
        checks.CHECKS[signature](server)


def test_an_op_that_the_served_release_does_not_have_is_a_verdict(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.export import op_compatibility

    monkeypatch.setattr(
        op_compatibility, "problems", lambda _: ["TensorFlow Serving 2.19: no"]
    )
    report = inputs.validate()
    assert not report["blessed"]
    assert report["verdict"] == "TensorFlow Serving 2.19: no"


def test_a_server_that_does_not_come_up_in_time_is_an_error(
    inputs: Inputs,
) -> None:
    with pytest.raises(ServerDidNotStart):
        inputs.validate(timeout_s=0.01)


def test_every_kind_of_feature_is_replayed(
    kinds: Kinds, kinds_server: dict[str, str], tmp_path: pathlib.Path
) -> None:
    """By all signatures, with all labels; one context in a request."""
    table = kinds.item_table
    requests = make_kinds_requests(table, 7, seed=15)
    contexts = make_kinds_requests(table, 7, seed=16)
    scores = []
    with tf.io.TFRecordWriter(
        str(tmp_path / "data.gz"), tf.io.TFRecordOptions("GZIP")
    ) as writer:
        for request, other in zip(requests, contexts, strict=True):
            values = example_values(table, request)
            scores.append(expected_scores(kinds, request))
            if len(scores) % 2:
                # The last candidate was shown in another context.
                own = {n: v for n, v in other.items() if "context" in n}
                for name, value in own.items():
                    values[name][-value.size :] = value.ravel()
                scores[-1][-1] = expected_scores(kinds, request | own)[-1]
            writer.write(to_example(values))
    ids = [one["candidate_item_ids"] for one in requests]
    flat = np.concatenate(scores).astype(np.float32)
    recorded = {
        "user_id": np.concatenate([one["user_id"] for one in requests]),
        "lengths": np.array([len(one) for one in ids]),
        "candidate_item_ids": np.concatenate(ids),
        "click_probability": flat[:, 0],
    }
    np.savez(tmp_path / "good.npz", **recorded, buy_probability=flat[:, 1])
    np.savez(tmp_path / "bad.npz", **recorded, buy_probability=flat[:, 1] + 0.1)
    with MuseClient(kinds_server["grpc"]) as client:
        inputs = client.metadata().signatures["rank"].inputs

        def replays(name: str) -> list[checks.Replay]:
            return executor._replays(
                tmp_path / name, str(tmp_path / "data.gz"), inputs
            )

        shown = replays("good.npz")
        assert any(len(one.places) < len(one.scores["buy"]) for one in shown)
        found = checks.Ranker(client, shown, table).differences()
        assert set(found) == set(checks.CHECKS)
        assert max(found.values()) < 1e-5
        bad = checks.Ranker(client, replays("bad.npz"), table)
        for name in ("serving_default", "rank", "explain", "prefetch"):
            difference = checks.CHECKS[name](bad)
            assert difference == pytest.approx(0.1, abs=1e-4)
