"""Every kind of feature helps: a model of the shop's logs, as it is served.

What a feature adds to a score is the score less that of the same request
without the feature, and is held against the feature's term in the truth.
"""

from __future__ import annotations

import collections
import dataclasses
import functools

import numpy as np
import pytest

from schemas import ranking_schema
from tests.own_data import running, shop

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.once,
    pytest.mark.tf,
    pytest.mark.timeout(1800),
]

REQUESTS = 300
OF_ITEMS = ("category", "seller", "price", "tags", "similarity")
GROUPS = {
    "user": ("segment", "income", "age", "spend", "interests", "taste"),
    "context": ("device", "hour"),
    "candidates": ("discount",),
    "behaviors": ("action", "ago", "dwell"),
}


@dataclasses.dataclass(eq=False)
class World:
    """The truth, and requests of the eval split to the served model."""

    truth: shop.Shop
    client: object
    schema: str
    requests: list[dict]
    rows: np.ndarray
    """Impressions of the requests' candidates, in their order."""

    @functools.cache  # noqa: B019
    def logits(self, without: str = "", label: str = "click") -> np.ndarray:
        """Returns the scores of all candidates, without a feature."""
        from serving.client import RankRequest

        results = self.client.rank(
            [RankRequest(**_without(one, without)) for one in self.requests]
        )
        scores = np.concatenate([r.probabilities[label] for r in results])
        return np.log(scores / (1 - scores))

    def effect(self, feature: str) -> np.ndarray:
        """Returns what a feature adds to the log-odds of a click."""
        every = "all" if feature in OF_ITEMS else ""
        return self.logits(every) - self.logits(feature)

    def term(self, feature: str) -> np.ndarray:
        weight = shop.WEIGHTS[feature][0]
        return weight * self.truth.terms[feature][self.rows]

    def true(self, label: str = "click") -> np.ndarray:
        """Returns the true probabilities, over all positions."""
        place = list(shop.BIAS).index(label)
        weight = shop.WEIGHTS["position"][place]
        positions = np.unique(self.truth.terms["position"])
        odds = self.truth.log_odds(label)[self.rows, None] + weight * positions
        return shop.sigmoid(odds).mean(axis=1)

    def loss(self, without: str = "", label: str = "click") -> float:
        """Returns the expected log loss: labels have no part in it."""
        return log_loss(
            self.true(label), shop.sigmoid(self.logits(without, label))
        )


def log_loss(truth, given) -> float:
    return float(
        -np.mean(truth * np.log(given) + (1 - truth) * np.log(1 - given))
    )


def _without(request: dict, feature: str) -> dict:
    """Returns a request that lacks a feature, or has other items."""
    if feature in (*OF_ITEMS, "all"):
        ids = [f"{sku}/{feature}" for sku in request["candidate_item_ids"]]
        return {**request, "candidate_item_ids": ids}
    return {
        name: {k: v for k, v in value.items() if k != feature}
        if isinstance(value, dict)
        else value
        for name, value in request.items()
    }


def _columns(table: dict[str, list]) -> dict:
    """Returns rows of a table by their first column."""
    names = list(table)
    return {
        row[0]: dict(zip(names, row, strict=True))
        for row in zip(*table.values(), strict=True)
    }


def _requests(truth: shop.Shop) -> tuple[list[dict], np.ndarray]:
    """Returns requests with histories as of their time, and impressions."""
    shown, events = truth.tables["impressions"], truth.tables["events"]
    users = _columns(truth.tables["users"])
    histories = collections.defaultdict(list)
    for event in zip(*events.values(), strict=True):
        event = dict(zip(events, event, strict=True))
        if event["kind"] != "view":
            histories[event["uid"]].append(event)
    visits = collections.defaultdict(list)
    for row in np.flatnonzero(truth.is_eval).tolist():
        visits[shown["visit"][row]].append(row)
    requests, places = [], []
    for rows in list(visits.values())[:REQUESTS]:
        first, user = rows[0], users[shown["uid"][rows[0]]]
        time = shown["shown_at"][first]
        past = [e for e in histories[user["uid"]] if e["at"] < time]
        past = past[-shop.MAX_HISTORY :]
        requests.append(
            {
                "user_id": user["uid"],
                "candidate_item_ids": [shown["sku"][row] for row in rows],
                "behavior_item_ids": [event["sku"] for event in past],
                "user": {
                    **{name: user[name] for name in GROUPS["user"]},
                    "interests": list(
                        filter(None, user["interests"].split("|"))
                    ),
                    "taste": user["taste"]
                    and [float(v) for v in user["taste"].split()],
                },
                "context": {
                    "device": shown["device"][first],
                    "hour": time.hour + 1,
                },
                "candidates": {
                    "discount": [shown["discount"][row] for row in rows]
                },
                "behaviors": {
                    "action": [event["kind"] for event in past],
                    "ago": [(time - e["at"]).total_seconds() for e in past],
                    "dwell": [event["dwell"] for event in past],
                },
            }
        )
        places += rows
    return requests, np.array(places)


def _add_items(client, truth: shop.Shop, requests: list[dict]) -> None:
    """Adds a copy of each candidate that lacks a feature, and a full one."""
    items = _columns(truth.tables["items"])
    vectors = dict(zip(*truth.tables["vectors"].values(), strict=True))
    skus = sorted({s for one in requests for s in one["candidate_item_ids"]})
    codes = np.array([vectors[sku].split() for sku in skus], np.float32)
    other = np.random.default_rng(1).normal(size=codes.shape)
    for feature in ("all", *OF_ITEMS):
        client.upsert_items(
            [f"{sku}/{feature}" for sku in skus],
            other if feature == "similarity" else codes,
            {
                name: [items[sku][name] for sku in skus]
                for name in ("category", "seller", "price", "tags")
                if name != feature
            },
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    from serving.client import MuseClient

    root = tmp_path_factory.mktemp("shop")
    truth = shop.make()
    shop.write(truth, root / "shop")
    config = running.run(
        root,
        root / "shop",
        model={"oov_rate": 0.3},
        trainer={"epochs": 6},
        export={"fresh_items": 16_384},
    )
    requests, rows = _requests(truth)
    schema = str(root / "shop" / "schema.yaml")
    with running.served(config) as target:
        with MuseClient(target, schema=schema) as client:
            _add_items(client, truth, requests)
            yield World(truth, client, schema, requests, rows)


@pytest.mark.parametrize("label", shop.BIAS)
def test_the_model_is_between_the_truth_and_a_constant(world, label):
    truth = world.true(label)
    best, constant = log_loss(truth, truth), log_loss(truth, truth.mean())
    loss = world.loss(label=label)
    assert best < loss < best + 0.6 * (constant - best)


@pytest.mark.parametrize("label", shop.BIAS)
def test_labels_are_calibrated(world, label):
    """Half of what was not clicked is missing in the logs of the training."""
    given = shop.sigmoid(world.logits(label=label))
    assert given.mean() / world.true(label).mean() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    "feature", [*(n for g in GROUPS.values() for n in g), *OF_ITEMS]
)
def test_a_feature_adds_what_it_does_in_truth(world, feature):
    effect, term = world.effect(feature), world.term(feature)
    if feature == "category":  # Its matches are gone as well.
        term = term + world.term("matches")
    # It is 0.76 for similarities and 0.88 to 0.98 for the others.
    assert np.corrcoef(effect, term)[0, 1] > 0.6
    every = "all" if feature in OF_ITEMS else ""
    assert world.loss(feature) > world.loss(every) + 0.004


def test_matches_add_to_what_the_category_does(world):
    terms = [
        world.term("category"),
        world.term("matches"),
        np.ones(len(world.rows)),
    ]
    found, *_ = np.linalg.lstsq(
        np.stack(terms, 1), world.effect("category"), rcond=None
    )
    assert found[:2].min() > 0.3


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("segment: {type: string}", "user_segment"),
        ("device: {type: string}", "context_device"),
        ("discount: {type: float}", "candidate_discount"),
        ("dwell: {type: float, buckets: 8}", "behavior_dwell"),
    ],
)
def test_one_line_adds_a_feature(world, tmp_path, line, name):
    """From the tables to the client, by nothing but the line."""
    from serving.client import RankRequest, RequestError
    from serving.export.request import rank_inputs

    assert shop.SCHEMA.count(f"    {line}\n") == 1
    file = tmp_path / "schema.yaml"
    file.write_text(shop.SCHEMA.replace(f"    {line}\n", ""), encoding="utf-8")
    without = set(rank_inputs(ranking_schema.load(file).features))
    served = world.client.metadata().signatures["rank"].inputs
    assert set(served) - without == {name} and without < set(served)
    group, _, own = name.partition("_")
    assert own in shop.WEIGHTS  # The model has learned it, see above.
    # Where no line declares it, it is refused.
    other = "context" if group == "user" else "user"
    request = {**world.requests[0], other: {own: 1}}
    with pytest.raises(RequestError, match=own):
        world.client.rank(RankRequest(**request))


def test_the_position_is_no_input_and_changes_nothing(world):
    """Neither of requests nor of Examples, which have the same scores."""
    from serving.client import RankRequest, RequestError, make_example

    inputs = world.client.metadata().signatures["rank"].inputs
    assert "candidate_discount" in inputs
    assert not [name for name in inputs if "position" in name]
    items = _columns(world.truth.tables["items"])

    def placed(request: dict, position: int) -> dict:
        shown = request["candidate_item_ids"]
        places = {"position": [position] * len(shown)}
        return {**request, "candidates": {**request["candidates"], **places}}

    def scores(position: int) -> np.ndarray:
        examples = []
        for one in world.requests[:20]:
            past = one["behavior_item_ids"]
            known = [items[sku]["category"] for sku in past]
            request = placed(one, position)
            request["behaviors"] = {**one["behaviors"], "category": known}
            features = {
                name: [items[sku][name] for sku in one["candidate_item_ids"]]
                for name in OF_ITEMS[:-1]
            }
            examples.append(
                make_example(RankRequest(**request), features, world.schema)
            )
        found = world.client.predict_examples(examples)
        return np.concatenate([one.click_probability for one in found])

    first = scores(1)
    np.testing.assert_array_equal(first, scores(shop.CANDIDATES))
    served = shop.sigmoid(world.logits()[: len(first)])
    np.testing.assert_allclose(first, served, atol=1e-5)
    with pytest.raises(RequestError, match="position"):
        world.client.rank(RankRequest(**placed(world.requests[0], 1)))
