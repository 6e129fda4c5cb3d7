"""The whole pipeline on a small synthetic data set, judged by its traces.

Every fixture is one more run over the same metadata, in the order of the
tests; what is not changed comes from the cache.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import typer.testing
import yaml
from google.protobuf import text_format

from tests.docs.test_docs import ROOT, blocks
from tests.tfx_pipeline import metadata

pytestmark = [pytest.mark.e2e, pytest.mark.tf, pytest.mark.timeout(1800)]

RESOLVER = "latest_blessed_model"
# What makes the item embeddings; no setting of the ranker runs it again.
EMBEDDINGS = {
    "ItemContentGen",
    "SearchExampleGen",
    "SCLTrainer",
    "ItemEmbedder",
}
COMPONENTS = {
    "RequestExampleGen",
    *EMBEDDINGS,
    "ItemTableGen",
    "StatisticsGen",
    "ImportSchemaGen",
    "StrictExampleValidator",
    "Transform",
    "RankerTrainer",
    RESOLVER,
    "Evaluator",
    "ServingValidator",
    "AtomicPusher",
    "MatchingGen",
    "MatchingServingValidator",
    "MatchingPusher",
}
ON_BEAM = {
    "RequestExampleGen",
    "ItemTableGen",
    "SearchExampleGen",
    "ItemEmbedder",
    "StatisticsGen",
    "Transform",
    "Evaluator",
    "MatchingGen",
}
BEFORE_TRAINING = {
    "RequestExampleGen",
    *EMBEDDINGS,
    "ItemTableGen",
    "StatisticsGen",
    "ImportSchemaGen",
    "StrictExampleValidator",
    "Transform",
    "MatchingGen",
    "MatchingServingValidator",
    "MatchingPusher",
}
BROKEN = 2
# Long enough in steps to be killed between two checkpoints. Fewer signatures
# are exported and served in a shorter time: MUSE has all of them.
DIN = [
    "model.type=din",
    "trainer.epochs=20",
    "trainer.checkpoint_steps=10",
    "export.fresh_items=0",
    "export.user_cache.users=0",
]


@dataclasses.dataclass
class World:
    """One data set, one configuration, one metadata store."""

    config_path: pathlib.Path

    def config(self, *overrides):
        from tfx_pipeline import config as config_lib

        return config_lib.load_config(self.config_path, overrides)

    @property
    def metadata(self) -> pathlib.Path:
        return self.config().metadata_path

    def versions(self, *overrides) -> list[str]:
        folder = self.config(*overrides).push_dir
        if not folder.exists():
            return []
        return sorted(entry.name for entry in folder.iterdir())

    def verdicts(self, model_type) -> list[str]:
        from tfx_pipeline.runs import verdict

        return [str(v) for v in verdict.verdicts(self.config(), model_type)]

    def run(self, *overrides) -> Run:
        """Runs the pipeline in this process."""
        from tfx_pipeline.runs import run_log, runner

        before = metadata.last_execution(self.metadata)
        pushed = set(self.versions(*overrides))
        lines: list[str] = []
        failure = None
        try:
            runner.run(self.config(*overrides), lines.append)
        except run_log.ComponentFailed as error:
            failure = error
        return Run(
            states=metadata.states(self.metadata, before),
            lines=lines,
            failure=failure,
            pushed=sorted(set(self.versions(*overrides)) - pushed),
            verdicts=[]
            if failure
            else self.verdicts(self.config(*overrides).model.type),
        )


@dataclasses.dataclass
class Run:
    """What one run left behind."""

    states: dict[str, str]
    lines: list[str]
    failure: Exception | None
    pushed: list[str]
    verdicts: list[str]

    def executed(self) -> set[str]:
        return {n for n, state in self.states.items() if state == "COMPLETE"}

    def cached(self) -> set[str]:
        return {n for n, state in self.states.items() if state == "CACHED"}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    from muse_tools.datasets import synth

    root = tmp_path_factory.mktemp("e2e")
    synth.generate(
        root / "data",
        synth.Options(
            users=60,
            items=300,
            history=40,
            candidates=7,
            test_users=0.5,
            click_rate=0.3,
            seed=3,
            broken=BROKEN,
            search_events=400,
        ),
    )
    settings = {
        "name": "e2e",
        "output_dir": str(root / "output"),
        "data": {
            "raw_dir": str(root / "data"),
            "max_candidates": 4,
            "max_rejected_fraction": 0.1,
            "join_partitions": 2,
        },
        "item_embeddings": "learned",
        "scl": {
            "hidden_units": [16],
            "bank_size": 64,
            "epochs": 3,
            "batch_events": 32,
            "max_rejected_fraction": 0.2,
        },
        "transform": {"max_history": 30},
        "model": {
            "embedding_dim": 4,
            "k": 5,
            "recent": 5,
            "num_tiers": 4,
            "hidden_units": [8],
        },
        "trainer": {"batch_requests": 8, "validation_requests": 16},
        # Whatever these tiny models score: the tests need both verdicts.
        "evaluator": {
            "min_gauc": 0.0,
            "max_gauc_drop": 1.0,
            "bootstrap_samples": 50,
        },
    }
    path = root / "pipeline.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return World(path)


@pytest.fixture(scope="module")
def parts() -> dict:
    """The Beam components of the first run, by name, see `beam_parts`."""
    return {}


@pytest.fixture(scope="module")
def first(world, parts) -> Run:
    from tests.tfx_pipeline import beam_parts

    with beam_parts.recorded(parts):
        return world.run()


@pytest.fixture(scope="module")
def signatures(world, first):
    """Those of the pushed model, loaded as it was saved."""
    import tensorflow as tf

    pushed = world.config().push_dir / first.pushed[0]
    served = tf.saved_model.load(str(pushed))
    # The functions do not keep the model's variables.
    yield served.signatures
    del served


@pytest.fixture(scope="module")
def second(world, first) -> Run:
    return world.run()


@pytest.fixture(scope="module")
def weak(world, second) -> Run:
    """A candidate that cannot reach the GAUC asked of it."""
    return world.run("evaluator.min_gauc=1.0")


@pytest.fixture(scope="module")
def anomalous(world, weak) -> Run:
    """A schema that the data breaks: a popularity is above 0."""
    from tensorflow_metadata.proto.v0 import schema_pb2

    from tfx_pipeline.runs import runner

    request_schema = runner.request_schema

    def strict(declared):
        schema = text_format.Parse(
            request_schema(declared), schema_pb2.Schema()
        )
        for feature in schema.feature:
            if feature.name == "candidate_popularity":
                feature.int_domain.max = 0
        return text_format.MessageToString(schema)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "request_schema", strict)
        return world.run()


@dataclasses.dataclass
class Killed:
    """A training that was killed, and the run after it."""

    states: dict[str, str]
    checkpoint: int
    rerun: Run


@pytest.fixture(scope="module")
def killed(world, anomalous) -> Killed:
    import tensorflow as tf

    before = metadata.last_execution(world.metadata)
    program = "from muse_tools.cli import main; main.run()"
    command = [sys.executable, "-c", program, "pipeline", "run"]
    command += ["--config", str(world.config_path)]
    for override in DIN:
        command += ["--set", override]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        cwd=pathlib.Path(__file__).parents[2],
        start_new_session=True,
    )
    seen = []
    checkpoints = world.config().root / "checkpoints"
    try:
        for line in process.stderr:
            seen.append(line)
            if "RankerTrainer" in line:
                deadline = time.monotonic() + 240
                while not list(checkpoints.glob("*/checkpoint")):
                    assert time.monotonic() < deadline, "no checkpoint"
                    time.sleep(0.01)
                os.killpg(process.pid, signal.SIGKILL)
                break
        else:
            pytest.fail("training never began: " + "".join(seen))
        assert process.wait(30) == -signal.SIGKILL
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stderr.close()
    states = metadata.states(world.metadata, before)
    # One that was being written when the process ended is not the newest.
    (folder,) = checkpoints.iterdir()
    newest = tf.train.latest_checkpoint(str(folder))
    return Killed(
        states=states,
        checkpoint=int(newest.rpartition("-")[2]),
        rerun=world.run(*DIN),
    )


def test_every_component_runs_once_and_a_model_is_pushed(world, first):
    assert first.failure is None
    assert first.states == dict.fromkeys(COMPONENTS, "COMPLETE")
    (version,) = first.pushed
    assert world.versions() == [version]
    model = world.config().push_dir / version
    assert (model / "saved_model.pb").is_file()
    ranker, matching = first.verdicts
    number = r"0\.\d{4} \[0\.\d{4}, [01]\.\d{4}\]"
    assert re.fullmatch(f"MUSE GAUC {number}; pushed to {model}", ranker)
    place = world.config().matching_dir
    assert re.fullmatch(
        rf"Retrieval recall@\d+ {number}; pushed to {place}/\d+", matching
    )
    finished = [line.split()[0] for line in first.lines if " done in " in line]
    assert set(finished) == COMPONENTS
    assert any(line.startswith("training step 15 of") for line in first.lines)


def test_row_counts_add_up_and_name_every_broken_row(world, first):
    config = world.config()
    with (config.rejected_dir / "requests" / "counts.json").open() as file:
        counts = json.load(file)
    rejected = {
        key.removeprefix("rejected/train_samples/"): value
        for key, value in counts.items()
        if key.startswith("rejected/train_samples/")
    }
    assert rejected == {
        "label not one-hot": BROKEN,
        "null": BROKEN,
        "no item row": BROKEN,
        "no user row": BROKEN,
    }
    assert counts["read/train_samples"] == 60 * 7 + 4 * BROKEN
    assert counts["joined/train_impressions"] == 60 * 7
    # Seven candidates make requests of four and three.
    assert counts["joined/train_requests"] == 60 * 2


@pytest.mark.once
def test_workers_in_other_processes_write_the_same(first, parts, tmp_path):
    from tests.tfx_pipeline import beam_parts

    assert parts.keys() == ON_BEAM
    with beam_parts.job_service(tmp_path / "service") as config:
        # A killed worker fails the component; a second run ends right.
        name = "RequestExampleGen"
        dying = config.model_copy(
            update={"environment_config": beam_parts.DYING_WORKER}
        )
        with pytest.raises(RuntimeError, match="FAILED"):
            beam_parts.repeat(parts[name], dying, tmp_path / name)
        assert not list((tmp_path / name).rglob("data_tfrecord-*.gz"))
        assert not (tmp_path / name / "rejected").exists()
        for name, part in parts.items():
            made = beam_parts.repeat(part, config, tmp_path / name)
            for key, folder in beam_parts.folders(part[1]).items():
                wanted = beam_parts.content(folder)
                assert wanted, (name, key)
                assert beam_parts.content(made[key]) == wanted, (name, key)


def test_evaluation_agrees_with_the_pushed_model(world, signatures):
    """GAUC from TFMA against the definition, through the served model."""
    import tensorflow as tf
    import tensorflow_model_analysis as tfma

    config = world.config()
    (split,) = config.artifacts_dir.glob(
        "RequestExampleGen/examples/*/Split-eval"
    )
    users, clicks, scores = [], [], []
    files = [str(path) for path in split.iterdir()]
    for record in tf.data.TFRecordDataset(files, compression_type="GZIP"):
        example = tf.train.Example.FromString(record.numpy())
        label = example.features.feature["clicks"].int64_list.value
        user = example.features.feature["user_id"].int64_list.value[0]
        answer = signatures["serving_default"](examples=record[tf.newaxis])
        users += [user] * len(label)
        clicks += label
        scores += answer["click_probability"].numpy()[0, : len(label)].tolist()
    total = weight = 0.0
    for user in set(users):
        mine = [
            (score, click)
            for owner, click, score in zip(users, clicks, scores, strict=True)
            if owner == user
        ]
        positive = [score for score, click in mine if click]
        negative = [score for score, click in mine if not click]
        if positive and negative:
            wins = sum(
                (p > n) + 0.5 * (p == n) for p in positive for n in negative
            )
            total += len(mine) * wins / (len(positive) * len(negative))
            weight += len(mine)
    (evaluation,) = config.artifacts_dir.glob("Evaluator/evaluation/*")
    result = tfma.load_eval_result(str(evaluation))
    overall = result.get_metrics_for_slice(())
    assert overall["gauc"]["doubleValue"] == pytest.approx(
        total / weight, abs=1e-6
    )
    assert overall["impressions"]["doubleValue"] == len(clicks)


def test_the_ranker_gets_the_learned_embeddings(world, signatures):
    """From the tower to the vectors that the pushed model serves."""
    import tensorflow as tf

    from muse_tools.datasets import item_text
    from muse_tools.datasets.item_content import ItemContent
    from tfx_pipeline.scl import export

    config = world.config()

    def output(component, key):
        (folder,) = config.artifacts_dir.glob(f"{component}/{key}/*")
        return folder

    content = ItemContent.open(
        output("ItemContentGen", "item_content") / "content"
    )
    embed = export.load_items_embedder(
        output("SCLTrainer", "model") / "Format-Serving"
    )
    rows = np.arange(20)
    wanted = item_text.quantize(embed(content.features(rows))).astype(float)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert "upsert_items" in signatures
    answer = signatures["embed"](
        item_ids=tf.constant(np.asarray(content.item_ids[rows]))
    )
    (found,) = (
        value.numpy()
        for value in answer.values()
        if value.dtype.is_floating and value.shape.rank == 2
    )
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    cosines = (found * wanted).sum(axis=1)
    np.testing.assert_allclose(cosines, 1, atol=2e-3)
    report = json.loads(
        (output("ItemEmbedder", "embeddings") / "report.json").read_text()
    )
    assert report["items"] == len(content)
    recall = json.loads(
        (output("SCLTrainer", "model_run") / "evaluation.json").read_text()
    )["methods"]
    assert list(recall) == ["tower", "raw modality cosine", "random"]


def test_the_ranking_service_serves_what_was_pushed(world, first, signatures):
    """The last step of the demo, on these models."""
    import tensorflow as tf

    from muse_tools.datasets import user_lookup
    from muse_tools.demo import chain as demo
    from muse_tools.demo import ranked_request
    from serving.client import RankRequest
    from serving.client.batches import rank_inputs
    from serving.stores import open_store

    config = world.config()
    lines: list[str] = []
    pushed = config.push_dir / first.pushed[0]
    answer = demo.ask(config, pushed, lines.append)
    sent = answer.ranked
    assert sent.candidates_from == "matching"
    assert sent.path in ("cached", "full"), sent.stages
    assert sent.user_id == answer.request.user_id
    length = np.count_nonzero(answer.request.behavior_item_ids)
    kept = min(length, config.transform.max_history)
    assert sent.history_length == {"cached": kept, "full": length}[sent.path]
    names = {stage.name for stage in sent.stages}
    assert {"store_read", "prefetch", "matching"} < names
    file = config.root / ranked_request.FILE
    assert json.loads(file.read_text()) == json.loads(
        json.dumps(dataclasses.asdict(sent))
    )
    with open_store(f"lmdb:{config.root / 'store'}") as store:
        assert f"{store.stats().users:,} users" in lines[0]
        assert len(store.read(sent.user_id)) == length

    user = user_lookup.find_user(
        pathlib.Path(config.data.raw_dir), sent.user_id
    )
    top = [row["item_id"] for row in sent.top]
    request = rank_inputs([RankRequest(**user, candidate_item_ids=top)])
    scores = signatures["rank"](
        **{name: tf.constant(value) for name, value in request.items()}
    )["click_probability"].numpy()[0]
    np.testing.assert_allclose(
        [row["click_probability"] for row in sent.top], scores, atol=1e-5
    )


def test_nothing_changed_means_everything_cached(first, second):
    assert second.failure is None
    # A resolver asks again every time; it computes nothing.
    assert second.states.pop(RESOLVER) == "COMPLETE"
    assert second.states == dict.fromkeys(COMPONENTS - {RESOLVER}, "CACHED")
    assert second.pushed == []
    # A run that did nothing says as much of the models as the one before.
    assert second.verdicts == [
        said.replace("pushed to", "pushed before, to") + "; nothing is new"
        for said in first.verdicts
    ]
    assert (
        sum("from the cache" in line for line in second.lines)
        == len(COMPONENTS) - 1
    )


def test_candidate_below_the_gauc_threshold_is_not_pushed(world, weak):
    from muse_tools.cli import pipeline as cli

    assert weak.failure is None
    assert weak.executed() == {RESOLVER, "Evaluator", "AtomicPusher"}
    assert weak.pushed == []
    blessings = sorted(
        world.config().artifacts_dir.glob("Evaluator/blessing/*"),
        key=lambda path: int(path.name),
    )
    assert [path.name for path in blessings[-1].iterdir()] == ["NOT_BLESSED"]
    refused, matching = weak.verdicts
    assert refused.startswith("MUSE GAUC 0.")
    assert refused.endswith("; not pushed: below evaluator.min_gauc 1")
    assert "pushed before" in matching

    def muse(*arguments):
        return typer.testing.CliRunner().invoke(
            cli.app,
            [arguments[0], "--config", str(world.config_path)]
            + ["--set", "evaluator.min_gauc=1.0", *arguments[1:]],
        )

    # All from the cache, and no success either.
    run = muse("run")
    assert run.exit_code == 0, run.stderr
    assert run.stdout.splitlines() == [refused, matching]
    assert "Served" not in run.stderr
    assert muse("run", "--fail-unless-pushed").exit_code == 1
    status = muse("status")
    assert status.stdout.splitlines()[-2:] == [refused, matching]
    models = json.loads(muse("status", "--json").stdout)["models"]
    assert [model["verdict"] for model in models] == [refused, matching]
    assert models[0]["reason"] == "below evaluator.min_gauc 1"
    assert models[0]["pushed_to"] is None


def test_anomaly_stops_the_run_before_transform(anomalous):
    assert anomalous.failure is not None
    assert anomalous.failure.component == "StrictExampleValidator"
    assert "feature candidate_popularity" in str(anomalous.failure)
    assert "\n" not in str(anomalous.failure)
    assert anomalous.states["StrictExampleValidator"] == "FAILED"
    assert not {"Transform", "RankerTrainer", "AtomicPusher"} & set(
        anomalous.states
    )
    assert anomalous.pushed == []


def test_killed_training_resumes_from_its_checkpoint(world, killed):
    # What stands after it in the order of the graph had not begun.
    later = {"MatchingServingValidator", "MatchingPusher"}
    assert killed.states == {
        **dict.fromkeys(BEFORE_TRAINING - later, "CACHED"),
        "RankerTrainer": "RUNNING",
    }
    rerun = killed.rerun
    assert rerun.failure is None
    (resumed,) = [line for line in rerun.lines if "training resumes" in line]
    assert f"at step {killed.checkpoint:,} of" in resumed
    assert killed.checkpoint > 0
    # Nothing of the curve is lost or repeated.
    folder = max(
        world.config().artifacts_dir.glob("RankerTrainer/model_run/*"),
        key=lambda path: int(path.name),
    )
    curve = [
        json.loads(line)
        for line in (folder / "training.jsonl").read_text().splitlines()
    ]
    steps = [point["step"] for point in curve]
    assert steps == list(range(1, 15 * 20 + 1))
    assert np.isfinite([point["loss"] for point in curve]).all()
    # The finished training leaves no checkpoint behind.
    assert not list((world.config().root / "checkpoints").iterdir())


def test_another_model_re_executes_the_trainer_and_what_follows(killed):
    rerun = killed.rerun
    assert rerun.cached() == BEFORE_TRAINING
    assert rerun.executed() == COMPONENTS - BEFORE_TRAINING
    (version,) = rerun.pushed
    assert version.isdigit()


def test_each_type_has_its_own_place_and_baseline(world, first, killed):
    din, _ = killed.rerun.verdicts
    place = world.config("model.type=din").push_dir / killed.rerun.pushed[0]
    assert din.startswith("DIN GAUC 0.") and din.endswith(f"pushed to {place}")
    # MUSE is served as before.
    assert world.versions() == first.pushed
    # MUSE was blessed before, and is no baseline of DIN.
    evaluation = lineage_of(world)["din"].evaluation
    assert evaluation["baseline_gauc"] is None


def lineage_of(world):
    from tfx_pipeline.runs import lineage

    return lineage.model_runs(world.config())


def test_lineage_tells_both_models(world, killed):
    from tfx_pipeline.runs import lineage

    runs = lineage.model_runs(world.config())
    assert list(runs) == ["muse", "din"]
    # The last evaluation of this model refused it.
    assert runs["muse"].pushed_to is None
    assert runs["din"].pushed_to.name == killed.rerun.pushed[0]
    assert runs["din"].settings["trainer"]["epochs"] == 20
    rows = {r["component"]: r for r in lineage.last_executions(world.config())}
    assert set(rows) == COMPONENTS
    assert rows["AtomicPusher"]["state"] == "COMPLETE"
    assert rows["Transform"]["state"] == "CACHED"


def test_a_model_whose_folder_is_gone_is_pushed_again(world, killed):
    shutil.rmtree(world.config().push_dir)
    again = world.run()
    assert again.failure is None
    assert again.executed() == {RESOLVER, "AtomicPusher"}
    (version,) = again.pushed
    ranker, matching = again.verdicts
    assert ranker.endswith(f"pushed to {world.config().push_dir / version}")
    assert "pushed before" in matching


# Commands of README and of the pipeline's page that are not executed here.
NOT_EXECUTED = {
    "make": "sets up environments; CI runs both targets",
    "muse serve": "serves until Ctrl-C",
    "muse service": "serves until Ctrl-C",
    "muse explore": "serves until Ctrl-C",
    "muse items push": "with --watch it runs until Ctrl-C",
    "muse compare": "trains; tests/muse_tools/compare",
    "muse models push": "needs a bucket; tests/serving/test_model_storage.py",
    "muse bench": "measures; tests/benchmarks",
    "muse report": "scores the eval split; tests/muse_tools/report",
    "muse data complete-journey": "makes other data; tests/muse_tools/datasets",
}
PAGE_COMMANDS = dict.fromkeys(
    tuple(shlex.split(line, comments=True))
    for page in (ROOT / "README.md", ROOT / "docs" / "pipeline.md")
    for block in blocks(page, "bash")
    for line in block.replace("\\\n", " ").splitlines()
    if line
)


def reason_not_executed(command) -> str:
    return next(
        (
            reason
            for start, reason in NOT_EXECUTED.items()
            if " ".join(command).startswith(f"{start} ")
        ),
        "",
    )


@pytest.fixture(scope="module")
def checkout(world, killed, tmp_path_factory):
    """A folder like a checkout after the demo, and what commands mean in it.

    Every command runs as the page has it, but for the words given here: ids
    of this data, the server's port, and the settings that DIN had before.
    """
    from muse_tools.datasets import user_lookup
    from serving.model_server import ServerConfig, running

    config = world.config()
    data = pathlib.Path(config.data.raw_dir)
    folder = tmp_path_factory.mktemp("checkout")
    for name, target in {
        "demo_output/data": data,
        "configs/demo.yaml": world.config_path,
        "compare_output/quick/results.json": ROOT
        / "docs/results/compare_quick.json",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target)
    request = user_lookup.pick_request(data)
    ids = map(str, request.candidate_item_ids)
    served = ServerConfig(
        model_config_file=str(config.models_file), port=0, rest_api_port=-1
    )
    with running(served) as server:
        yield (
            folder,
            {
                "1": [str(request.user_id)],
                "9655212,1070214": [",".join(ids)],
                "rank": ["rank", "--target", server.grpc_target],
                "model.type=din": [w for one in DIN for w in ("--set", one)][
                    1:
                ],
            },
        )


@pytest.mark.parametrize(
    "command",
    [words for words in PAGE_COMMANDS if not reason_not_executed(words)],
    ids=" ".join,
)
def test_a_command_of_the_pages_runs(checkout, command, monkeypatch):
    from muse_tools.cli.commands import app

    folder, meanings = checkout
    monkeypatch.chdir(folder)
    words = [new for word in command[1:] for new in meanings.get(word, [word])]
    done = typer.testing.CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "Traceback" not in done.output
    if "--out" in command:
        assert (folder / command[command.index("--out") + 1]).stat().st_size
    if command[:3] == ("muse", "pipeline", "run"):
        assert done.stderr.count("from the cache") >= len(COMPONENTS) - 2


def test_no_reason_is_given_for_a_command_that_is_gone():
    reasons = {reason_not_executed(words) for words in PAGE_COMMANDS} - {""}
    assert reasons == set(NOT_EXECUTED.values())
