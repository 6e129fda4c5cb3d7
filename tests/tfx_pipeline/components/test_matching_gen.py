"""MatchingGen: the process, the model it makes, and where that goes.

The component runs once, with the real child process; its model is loaded here
and compared with the method in NumPy.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
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
from tfx_pipeline.components.artifacts import ItemTableArtifact
from tfx_pipeline.components.matching_gen import checks, executor
from tfx_pipeline.matching import process
from tfx_pipeline.matching.settings import Scoring

pytestmark = pytest.mark.tf

NUM_CANDIDATES = 12
SETTINGS = {
    "num_candidates": NUM_CANDIDATES,
    "max_behaviors": worlds.MAX_BEHAVIORS,
    "half_life": worlds.HALF_LIFE,
    "popularity_weight": worlds.POPULARITY_WEIGHT,
    "repeat_weight": worlds.REPEAT_WEIGHT,
}


class Run:
    """The component's executor on a world."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.world = worlds.make_world(root)
        self.push_dir = root / "serving" / "matching"

    def do(self, min_recall: float = 0.0) -> None:
        table = ItemTableArtifact()
        table.uri = str(self.root)
        examples = standard_artifacts.Examples()
        examples.uri = str(self.root / "examples")
        examples.split_names = '["train", "eval"]'
        model = standard_artifacts.Model()
        model.uri = str(self.root / "model")
        evaluation = standard_artifacts.ModelEvaluation()
        evaluation.uri = str(self.root / "evaluation")
        executor.Executor().Do(
            {"item_table": [table], "examples": [examples]},
            {"model": [model], "evaluation": [evaluation]},
            {
                "settings": json.dumps(SETTINGS),
                "min_recall": min_recall,
                "push_dir": str(self.push_dir),
                "ranker_dirs": json.dumps(
                    {
                        "models.config": str(self.root / "serving" / "muse"),
                        "models_din.config": str(self.root / "serving" / "din"),
                    }
                ),
                "code_fingerprint": "",
            },
        )

    def evaluation(self) -> dict:
        return json.loads(
            (self.root / "evaluation" / "evaluation.json").read_text()
        )

    def version(self) -> pathlib.Path:
        (version,) = [p for p in self.push_dir.iterdir() if p.name.isdigit()]
        return version


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    made = Run(tmp_path_factory.mktemp("matching"))
    made.do()
    return made


@pytest.fixture(scope="module")
def model(run):
    return tf.saved_model.load(str(run.version()))


def recommend(model, histories):
    ids = np.zeros((len(histories), max(map(len, histories))), np.int64)
    for row, history in zip(ids, histories, strict=True):
        row[: len(history)] = history
    outputs = model.signatures["recommend"](behavior_item_ids=tf.constant(ids))
    return {name: value.numpy() for name, value in outputs.items()}


def check_answer(world, history, ids, scores):
    """Exact top K, whatever the order of equal scores."""
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


def test_nobody_known_gets_the_popular_items(run, model):
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


def test_only_the_newest_behaviours_count(run, model):
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


def test_pushed_whole_with_warmup_and_models_config(run):
    version = run.version()
    names = {path.name for path in run.push_dir.iterdir()}
    assert names == {version.name, "models.config", "models_din.config"}
    records = [
        log.predict_log.request.model_spec for log in read_warmup(str(version))
    ]
    assert {record.name for record in records} == {"matching"}
    assert {record.signature_name for record in records} == {
        "recommend",
        "search",
        "serving_default",
    }
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


def test_no_device_is_prescribed(run):
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString(
        (run.version() / "saved_model.pb").read_bytes()
    )
    (meta_graph,) = saved.meta_graphs
    nodes = list(meta_graph.graph_def.node)
    for function in meta_graph.graph_def.library.function:
        nodes += function.node_def
    assert not {node.device for node in nodes} - {""}


def test_too_little_recall_is_not_pushed(run, tmp_path, monkeypatch):
    # The model was made; only the decision is asked here.
    monkeypatch.setattr(process, "run_job", lambda job, report: None)
    monkeypatch.setattr(executor, "_write_warmup", lambda *_: None)
    monkeypatch.setattr(run, "push_dir", tmp_path / "matching")
    lines = []
    monkeypatch.setattr(executor.progress, "report", lines.append)
    run.do(min_recall=1.0)
    assert not run.push_dir.exists()
    assert "not pushed: recall" in lines[-1] and "1.0 is needed" in lines[-1]


@pytest.fixture(scope="module")
def client(run):
    with (
        local_server({"matching": run.version()}) as address,
        MuseClient(address.grpc, model="matching") as made,
    ):
        yield made


@pytest.fixture
def expected(run):
    """What the component compares the served model with."""
    known = run.world.item_ids()
    counts = Counter(
        item for _, item in run.world.clicked(run.world.train) if item in known
    )
    return checks.Expected(
        run.world.table,
        np.array([*counts], np.int64),
        np.array([*counts.values()], np.int64),
        Scoring(
            worlds.HALF_LIFE, worlds.POPULARITY_WEIGHT, worlds.REPEAT_WEIGHT
        ),
        worlds.MAX_BEHAVIORS,
    )


def test_every_signature_is_checked_and_passes(run, client, model, expected):
    assert set(model.signatures) == set(checks.CHECKS)
    checks.check(client, expected)
    with np.load(run.root / "evaluation" / "item_clicks.npz") as stored:
        order = np.argsort(expected.clicked)
        np.testing.assert_array_equal(
            stored["item_ids"], expected.clicked[order]
        )
        np.testing.assert_array_equal(stored["clicks"], expected.clicks[order])


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
    with pytest.raises(ValueError, match="other scores .* 'recommend'"):
        checks.check(client, other)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"max_behaviors": 5}, "scores"),
        ({"clicks": 3}, "scores"),
        ({"table": "other"}, "items"),
    ],
)
def test_another_model_is_found_out(
    run, client, expected, tmp_path, change, says
):
    if "clicks" in change:
        change = {"clicks": expected.clicks + 3}
    if "table" in change:
        table, some = run.world.table, slice(20, None)
        change["table"] = type(table).write(
            tmp_path / "table",
            table.item_ids[some],
            table.codes[1:][some],
            {name: c[1:][some] for name, c in table.features.items()},
            "test",
        )
    with pytest.raises(ValueError, match=f"other .*{says}"):
        checks.check(client, dataclasses.replace(expected, **change))


def test_search_is_checked_by_its_vectors(run, client, expected, tmp_path):
    table = run.world.table
    turned = type(table).write(
        tmp_path / "table",
        table.item_ids,
        np.roll(table.codes[1:], 1, axis=1),
        {name: column[1:] for name, column in table.features.items()},
        "test",
    )
    with pytest.raises(ValueError, match="'search'"):
        checks.CHECKS["search"](
            client, dataclasses.replace(expected, table=turned)
        )
