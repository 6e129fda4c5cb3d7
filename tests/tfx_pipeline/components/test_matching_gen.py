"""MatchingGen: the process, the model it makes, and where that goes.

The component runs once, with the real child process; its model is loaded here
and compared with the method in NumPy.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import tempfile
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from serving.client import MuseClient
from serving.local_server import local_server
from serving.model_server.config_files import read_models
from serving.model_server.warmup import read_warmup
from tests.tfx_pipeline.matching import world as worlds
from tfx_pipeline.components import (
    atomic_pusher,
    matching_checks,
    matching_gen,
)
from tfx_pipeline.components.artifacts import ItemTableArtifact
from tfx_pipeline.components.matching_gen import MatchingGen
from tfx_pipeline.components.serving_checks import WrongAnswer
from tfx_pipeline.components.serving_validator import ServingValidator
from tfx_pipeline.matching import inputs, process
from tfx_pipeline.matching.settings import Scoring

pytestmark = [pytest.mark.once, pytest.mark.tf]

NUM_CANDIDATES = 12
SETTINGS = {
    "num_candidates": NUM_CANDIDATES,
    "max_behaviors": worlds.MAX_BEHAVIORS,
    "half_life": worlds.HALF_LIFE,
    "popularity_weight": worlds.POPULARITY_WEIGHT,
    "repeat_weight": worlds.REPEAT_WEIGHT,
}


class Run:
    """The component on a world, and what comes after it."""

    def __init__(self, root: pathlib.Path, items: int = 60) -> None:
        self.root = root
        self.world = worlds.make_world(root, items)
        self.push_dir = root / "serving" / "matching"
        self.artifacts = {
            "item_table": (ItemTableArtifact(), root),
            "examples": (standard_artifacts.Examples(), root / "examples"),
            "model": (standard_artifacts.Model(), root / "model"),
            "evaluation": (
                standard_artifacts.ModelEvaluation(),
                root / "evaluation",
            ),
            "blessing": (standard_artifacts.ModelBlessing(), root / "blessing"),
        }
        for artifact, folder in self.artifacts.values():
            folder.mkdir(exist_ok=True)
            artifact.uri = str(folder)
        self.artifact("examples").split_names = '["train", "eval"]'

    def artifact(self, name: str):
        return self.artifacts[name][0]

    def make(self, settings=SETTINGS, **parameters) -> dict:
        """Runs MatchingGen; returns the result it recorded."""
        MatchingGen.test_call(
            **{name: self.artifact(name) for name in self.artifacts},
            settings=json.dumps(settings),
            **parameters,
        )
        return json.loads(
            self.artifact("evaluation").get_string_custom_property("result")
        )

    def validate(self, tolerance: float = 1e-4):
        """Runs the ServingValidator; returns its blessing and report."""
        blessing = standard_artifacts.InfraBlessing()
        blessing.uri = tempfile.mkdtemp(dir=self.root)
        ServingValidator.test_call(
            blessing=blessing,
            tolerance=tolerance,
            **{
                name: self.artifact(name)
                for name in ("model", "item_table", "evaluation")
            },
        )
        report = pathlib.Path(blessing.uri) / "report.json"
        return blessing, json.loads(report.read_text())

    def push(self, infra_blessing) -> standard_artifacts.PushedModel:
        """Runs the pusher as the pipeline configures it."""
        pushed = standard_artifacts.PushedModel()
        configs = {
            name: {
                "muse": str(self.root / "serving" / ranker),
                "matching": str(self.push_dir),
            }
            for name, ranker in (
                ("models.config", "muse"),
                ("models_din.config", "din"),
            )
        }
        destination = {"filesystem": {"base_directory": str(self.push_dir)}}
        atomic_pusher.Executor().Do(
            {
                "model": [self.artifact("model")],
                "model_blessing": [self.artifact("blessing")],
                "infra_blessing": [infra_blessing],
            },
            {"pushed_model": [pushed]},
            {
                "push_destination": json.dumps(destination),
                "custom_config": json.dumps({"models_configs": configs}),
            },
        )
        return pushed

    def evaluation(self) -> dict:
        return json.loads(
            (self.root / "evaluation" / "evaluation.json").read_text()
        )

    def model_dir(self) -> pathlib.Path:
        return self.root / "model" / "Format-Serving"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    made = Run(tmp_path_factory.mktemp("matching"))
    made.make()
    return made


@pytest.fixture(scope="module")
def model(run):
    return tf.saved_model.load(str(run.model_dir()))


def recommend(model, histories):
    ids = np.zeros((len(histories), max(map(len, histories))), np.int64)
    for row, history in zip(ids, histories, strict=True):
        row[: len(history)] = history
    outputs = model.signatures["recommend"](behavior_item_ids=tf.constant(ids))
    return {name: value.numpy() for name, value in outputs.items()}


def check_answer(world, history, ids, scores):
    """Exact top K, in any order of equal scores."""
    items = world.item_ids().tolist()
    expected = world.scores(history)
    best = np.sort(expected)[::-1][: len(scores)]
    np.testing.assert_allclose(scores, best, atol=2e-6)
    assert len(set(ids.tolist())) == len(ids) == NUM_CANDIDATES
    mine = [expected[items.index(item)] for item in ids.tolist()]
    np.testing.assert_allclose(scores, mine, atol=2e-6)


def histories_of(world):
    some = [request.history for request in world.eval]
    items = world.item_ids().tolist()
    return [
        *some,
        [],
        [99],
        [0, 0],
        [items[3]] * 9,
        [worlds.LOWEST, worlds.HIGHEST],
        [*items[:20], 99, 0, items[0]],
    ]


def test_answers_are_the_best_items(run, model):
    histories = histories_of(run.world)
    answers = recommend(model, histories)
    assert answers["candidate_item_ids"].dtype == np.int64
    for row, history in enumerate(histories):
        check_answer(
            run.world,
            history,
            answers["candidate_item_ids"][row],
            answers["scores"][row],
        )


def test_an_unknown_user_gets_the_popular_items(run, model):
    scores = recommend(model, [[]])["scores"][0]
    popular = np.sort(run.world.popularity())[::-1][:NUM_CANDIDATES]
    np.testing.assert_allclose(
        scores, worlds.POPULARITY_WEIGHT * popular, atol=1e-6
    )


def test_padding_and_other_rows_change_nothing(run, model):
    history = run.world.eval[0].history
    alone = recommend(model, [history])
    spread = [value for item in history for value in (0, item, 0)]
    together = recommend(model, [history, spread, [5], spread + [0] * 30])
    for row in (0, 1, 3):
        for name, values in alone.items():
            np.testing.assert_allclose(together[name][row], values[0], 1e-6)


def test_only_the_newest_behaviors_count(run, model):
    items = run.world.item_ids().tolist()
    newest = items[10 : 10 + worlds.MAX_BEHAVIORS]
    short = recommend(model, [newest])
    long = recommend(model, [items[30:60] + newest])
    np.testing.assert_array_equal(
        short["candidate_item_ids"], long["candidate_item_ids"]
    )
    np.testing.assert_allclose(short["scores"], long["scores"], 1e-6)


def test_search_is_cosine_whatever_the_length(run, model):
    queries = np.random.default_rng(0).normal(size=(5, worlds.DIM))
    queries = queries.astype(np.float32) * [[1], [100], [1e-3], [1], [7]]
    outputs = model.signatures["search"](
        query_vector=tf.constant(queries, tf.float32)
    )
    units = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    cosines = units @ run.world.vectors().T
    order = np.argsort(-cosines, axis=1)[:, :NUM_CANDIDATES]
    np.testing.assert_array_equal(
        outputs["candidate_item_ids"].numpy(), run.world.item_ids()[order]
    )
    np.testing.assert_allclose(
        outputs["scores"].numpy(),
        np.take_along_axis(cosines, order, 1),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    "query",
    [
        np.zeros((1, worlds.DIM)),
        np.full((1, worlds.DIM), np.nan),
        np.full((1, worlds.DIM), np.inf),
        np.ones((1, worlds.DIM + 1)),
    ],
    ids=["zero", "nan", "inf", "wide"],
)
def test_search_refuses_what_is_no_direction(model, query):
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="query_vector must"
    ):
        model.signatures["search"](query_vector=tf.constant(query, tf.float32))


def test_recall_is_that_of_the_served_answers(run):
    world, found = run.world, run.evaluation()
    pairs = world.clicked(world.eval)
    first = {request.user: request.history for request in world.eval[::-1]}
    items = world.item_ids()
    ks = (1, 10, NUM_CANDIDATES)

    def recall(best, k):
        return np.mean([item in best(user)[:k] for user, item in pairs])

    def served(user):
        return items[np.argsort(-world.scores(first[user]), kind="stable")]

    def served_without_vectors(user):
        score = world.scores(first[user])
        score = score - world.vectors() @ world.query(first[user])
        return items[np.argsort(-score.round(9), kind="stable")]

    def popular(_):
        return items[np.argsort(-world.popularity(), kind="stable")]

    def near(user):
        similar = world.vectors() @ world.query(first[user])
        return items[np.argsort(-similar, kind="stable")]

    def near_and_popular(user):
        score = world.vectors() @ world.query(first[user])
        score = score + worlds.POPULARITY_WEIGHT * world.popularity()
        return items[np.argsort(-score, kind="stable")]

    assert found["recall"]["matching without vectors"]["12"]["recall"] == (
        pytest.approx(recall(served_without_vectors, NUM_CANDIDATES))
    )
    for k in ks:
        assert found["recall"]["matching"][str(k)]["recall"] == (
            pytest.approx(recall(served, k))
        )
        assert found["recall"]["popularity"][str(k)]["recall"] == (
            pytest.approx(recall(popular, k))
        )
        by_tfrs = found["factorized_top_k"]
        assert by_tfrs["user vector"][str(k)] == pytest.approx(recall(near, k))
        assert by_tfrs["user vector and popularity"][str(k)] == (
            pytest.approx(recall(near_and_popular, k))
        )
    unknown = sum(item not in items for _, item in pairs)
    assert unknown > 0
    assert found["clicks"] == len(pairs)
    assert found["clicks_without_vector"] == unknown
    assert found["users"] == len({user for user, _ in pairs})
    assert found["items_without_vector"] == 4
    assert found["num_items"] == len(items)


def test_warmup_is_for_every_signature(run):
    records = [
        log.predict_log.request.model_spec
        for log in read_warmup(str(run.model_dir()))
    ]
    assert {record.name for record in records} == {"matching"}
    assert {record.signature_name for record in records} == set(
        matching_checks.CHECKS
    )


def test_validated_and_pushed_with_models_configs(run):
    blessing, report = run.validate()
    assert report["blessed"], report
    assert set(report["worst_difference"]) == set(matching_checks.CHECKS)
    assert blessing.get_int_custom_property("blessed") == 1
    pushed = run.push(blessing)
    place = pathlib.Path(
        pushed.get_string_custom_property("pushed_destination")
    )
    assert (place / "saved_model.pb").is_file()
    names = {path.name for path in run.push_dir.iterdir()}
    assert names == {place.name, "models.config", "models_din.config"}
    # Each type of ranker has a file: the last one trained displaces no other.
    for name, ranker in (
        ("models.config", "muse"),
        ("models_din.config", "din"),
    ):
        file = run.push_dir / name
        # The folder may be copied.
        assert str(run.root) not in file.read_text()
        models = read_models(str(file))
        assert {model.name: model.base_path for model in models} == {
            "muse": str(run.root / "serving" / ranker),
            "matching": str(run.push_dir),
        }


def test_what_the_server_answers_decides_on_the_push(run, monkeypatch):
    monkeypatch.setattr(run, "push_dir", run.root / "elsewhere")
    blessing, report = run.validate(tolerance=1e-12)
    assert not report["blessed"]
    assert "allowed 1e-12" in report["verdict"]
    pushed = run.push(blessing)
    assert pushed.get_int_custom_property("pushed") == 0
    assert not run.push_dir.exists()


def test_no_device_is_prescribed(run):
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString(
        (run.model_dir() / "saved_model.pb").read_bytes()
    )
    (meta_graph,) = saved.meta_graphs
    nodes = list(meta_graph.graph_def.node)
    for function in meta_graph.graph_def.library.function:
        nodes += function.node_def
    assert not {node.device for node in nodes} - {""}


def test_too_little_recall_is_not_blessed(run, monkeypatch):
    # The model was made; only the decision is asked here.
    monkeypatch.setattr(process, "run_job", lambda job, report: None)
    monkeypatch.setattr(inputs, "write_inputs", lambda *_: None)
    monkeypatch.setattr(matching_gen, "_write_warmup", lambda *_: None)
    lines = []
    monkeypatch.setattr(matching_gen.progress, "report", lines.append)
    for least, blessed in ((1.0, 0), (0.0, 1)):
        found = run.make(min_recall=least)
        blessing = run.artifact("blessing")
        assert blessing.get_int_custom_property("blessed") == blessed
        assert found["metric"] == f"recall@{NUM_CANDIDATES}"
        refused = "below matching.min_recall 1"
        assert found["refused"] == ("" if blessed else refused)
    (line,) = lines
    assert "not pushed: recall" in line and "1.0 is needed" in line


@pytest.fixture(scope="module")
def client(run):
    with (
        local_server({"matching": run.model_dir()}) as address,
        MuseClient(address.grpc, model="matching") as made,
    ):
        yield made


@pytest.fixture
def expected(run):
    """What the served model is compared with."""
    known = run.world.item_ids()
    counts = Counter(
        item for _, item in run.world.clicked(run.world.train) if item in known
    )
    return matching_checks.Expected(
        run.world.table,
        np.array([*counts], np.int64),
        np.array([*counts.values()], np.int64),
        Scoring(
            worlds.HALF_LIFE, worlds.POPULARITY_WEIGHT, worlds.REPEAT_WEIGHT
        ),
        worlds.MAX_BEHAVIORS,
    )


def differences(client, expected):
    return matching_checks.Matcher(client, expected).differences()


def test_every_signature_is_checked_and_passes(run, client, model, expected):
    assert set(model.signatures) == set(matching_checks.CHECKS)
    assert max(differences(client, expected).values()) < 1e-5
    read = matching_checks.Expected.read(
        run.world.table, run.root / "evaluation"
    )
    order = np.argsort(expected.clicked)
    np.testing.assert_array_equal(read.clicked, expected.clicked[order])
    np.testing.assert_array_equal(read.clicks, expected.clicks[order])
    assert (read.scoring, read.max_behaviors) == (
        expected.scoring,
        expected.max_behaviors,
    )


@pytest.mark.parametrize(
    "change",
    [
        {"half_life": 2.5},
        {"popularity_weight": 0.21},
        {"repeat_weight": 0.41},
    ],
)
def test_other_weights_are_found_out(client, expected, change):
    other = dataclasses.replace(
        expected, scoring=dataclasses.replace(expected.scoring, **change)
    )
    assert differences(client, other)["recommend"] > 1e-3


@pytest.mark.parametrize("change", ["max_behaviors", "clicks"])
def test_another_model_is_found_out(client, expected, change):
    value = {"max_behaviors": 5, "clicks": expected.clicks + 3}[change]
    other = dataclasses.replace(expected, **{change: value})
    assert differences(client, other)["recommend"] > 1e-3


def test_unknown_items_are_found_out(run, client, expected, tmp_path):
    table, some = run.world.table, slice(20, None)
    fewer = type(table).write(
        tmp_path / "table",
        table.item_ids[some],
        table.codes[1:][some],
        {name: c[1:][some] for name, c in table.features.items()},
        "test",
    )
    with pytest.raises(WrongAnswer, match="recommend: .* the item table does"):
        differences(client, dataclasses.replace(expected, table=fewer))


def test_search_is_checked_by_its_vectors(run, client, expected, tmp_path):
    table = run.world.table
    turned = type(table).write(
        tmp_path / "table",
        table.item_ids,
        np.roll(table.codes[1:], 1, axis=1),
        {name: column[1:] for name, column in table.features.items()},
        "test",
    )
    other = dataclasses.replace(expected, table=turned)
    matcher = matching_checks.Matcher(client, other)
    assert matching_checks.CHECKS["search"](matcher) > 0.1


@pytest.fixture(scope="module")
def clustered(tmp_path_factory) -> Run:
    """The component on items that are more than an exact index takes."""
    made = Run(tmp_path_factory.mktemp("clustered"), items=4000)
    made.make({**SETTINGS, "index_recall": 0.9}, exact_items=1000)
    return made


def test_clusters_find_most_of_the_exact_answer(clustered):
    world, found = clustered.world, clustered.evaluation()["index"]
    assert found["kind"] == "clustered"
    # As few as are enough: the world has 63 clusters.
    assert found["clusters"] == 63 and 1 <= found["probes"] < 63
    model = tf.saved_model.load(str(clustered.model_dir()))
    histories = [
        [item for item in request.history if item] for request in world.eval
    ]
    histories.append([])
    answers = recommend(model, histories)
    items = {item: place for place, item in enumerate(world.item_ids())}
    shares = []
    for row, history in enumerate(histories):
        ids, given = (
            answers[name][row] for name in ("candidate_item_ids", "scores")
        )
        scores = world.scores(history)
        of_answer = [scores[items[item]] for item in ids.tolist()]
        np.testing.assert_allclose(given, of_answer, atol=2e-6)
        assert (np.diff(given) <= 0).all() and len(set(ids)) == len(ids)
        best = np.sort(scores)[-NUM_CANDIDATES:]
        shares.append(np.mean(given >= best[0] - 2e-6))
    # A user without behaviors is compared with all popular items.
    assert shares[-1] == 1.0
    assert np.mean(shares) > 0.85
    assert found["found_of_exact"] == pytest.approx(np.mean(shares), abs=0.1)


def test_the_validator_wants_right_scores_and_most_of_the_best(clustered):
    expected = matching_checks.Expected.read(
        clustered.world.table, clustered.root / "evaluation"
    )
    assert expected.least_found == 0.45
    with (
        local_server({"matching": clustered.model_dir()}) as address,
        MuseClient(address.grpc, model="matching") as client,
    ):
        assert max(differences(client, expected).values()) < 1e-5
        with pytest.raises(WrongAnswer, match="of the best items"):
            differences(
                client, dataclasses.replace(expected, least_found=0.9999)
            )
