"""Features of every kind, texts and labels, by gRPC and by REST."""

from __future__ import annotations

import datetime
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.hashing import stable_id
from schemas.ranking_schema import RankingSchema
from serving.client import InvalidArgumentError
from serving.client.ranking import RankingClient, RankingRequest
from serving.ranking_service import ServiceConfig, features, running_service
from serving.stores import Layout, open_store
from tests.serving import toy_matching
from tests.serving.ranking_service.conftest import UNHURRIED, settings
from tests.serving.ranking_service.test_protocols import post
from tests.serving.stores.conftest import redis_server, store_url  # noqa: F401

pytestmark = [pytest.mark.once, pytest.mark.tf]

# In Tokyo it is the next day, a Monday, and eight o'clock.
NOW = int(
    datetime.datetime(
        2026, 3, 1, 23, 5, tzinfo=datetime.timezone.utc
    ).timestamp()
)
CLOCK = {"hour": 9, "day": 1}
USER = {"town": "rome", "tags": [5, 6], "height": 1.5}
SKUS, DISCOUNTS = ["tea", "salt", "milk"], [0.5, -4.0, 2.0]
EVENTS = [("tea", "click", 2.5, 900), ("oil", "order", -1.0, 60)]


@pytest.fixture(scope="session")
def shop_config(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    from tests.serving.ranking_service import toy_shop

    folder = tmp_path_factory.mktemp("shop")
    toy_shop.export_toy_shop(folder / "muse")
    toy_matching.export_toy_matching(folder / "matching")
    models = "".join(
        f'config {{ name: "{name}" base_path: "{folder / name}" }}'
        for name in ("muse", "matching")
    )
    file = folder / "models.config"
    file.write_text(f"model_config_list {{ {models} }}")
    return file


@pytest.fixture(scope="session")
def shop(shop_config: pathlib.Path) -> Iterator[str]:
    from serving.model_server import ServerConfig, running

    config = ServerConfig(
        model_config_file=str(shop_config), port=0, rest_api_port=0
    )
    with running(config) as app:
        yield app.grpc_target


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "now", lambda: NOW)


def declared() -> RankingSchema:
    from tests.serving.ranking_service import toy_shop

    return toy_shop.DECLARED


def started(shop: str, store: str, **changes: Any) -> Any:
    site: Any = type("Site", (), {"store": store, "model_server": shop})
    config = settings(site, **{**UNHURRIED, "poll_seconds": 0.2, **changes})
    return running_service(ServiceConfig(**config))


def expected(user, events, context, items=SKUS, discounts=DISCOUNTS):
    from tests.serving.ranking_service import toy_shop

    logits = toy_shop.logits(
        user, events, {**CLOCK, **context}, items, discounts
    )
    return 1 / (1 + np.exp(-logits))


def append(app) -> None:
    """Both protocols append to the user, by names of texts."""
    (tea, click, price, age), (oil, order, _, newer) = EVENTS
    with RankingClient(app.grpc_target) as client:
        times, behaviors = [NOW - age], {"action": [click], "price": [price]}
        assert client.append_events("7", [tea], behaviors, USER, times) == 1
    body = {
        "user_id": "7",
        "item_ids": [oil],
        "behaviors": {"action": [order], "price": [None]},
        "times": [NOW - newer],
    }
    assert post(app, "/v1/events", body)[2] == {"appended": 1}


def ask(app, **fields: Any) -> list[dict[str, Any]]:
    """The answers by both protocols to the user, as JSON has them."""
    asked = {
        "user_id": "7",
        "candidate_item_ids": SKUS,
        "candidates": {"discount": DISCOUNTS},
        **fields,
    }
    with RankingClient(app.grpc_target) as client:
        found = client.rank(RankingRequest(**asked))
    status, _, answer = post(app, "/v1/rank", asked)
    assert status == 200, answer
    by_grpc = {
        "path": found.path,
        "stages": found.stages,
        "candidate_item_ids": found.candidate_item_ids.tolist(),
        "probabilities": found.probabilities,
    }
    return [by_grpc, answer]


def check(answers, path: str, click: np.ndarray, items=SKUS) -> None:
    for answer in answers:
        assert answer["path"] == path, answer["stages"]
        assert answer["candidate_item_ids"] == list(items)
        given = answer["probabilities"]
        assert list(given) == ["click", "buy"]
        np.testing.assert_allclose(given["click"], click, atol=1e-5)
        np.testing.assert_allclose(given["buy"], 1 - click, atol=1e-5)


def test_every_kind_from_the_store_and_the_request(shop, store_url):  # noqa: F811
    """Of the store, of the request and of the clock; cached and in full."""
    open_store(store_url, Layout.of(declared()), timeout=20).close()
    with started(shop, store_url) as app:
        assert app.service.ready, app.service.problem
        append(app)
        context = {"device": "phone", "words": 2.5}
        check(
            ask(app, context=context),
            "cached",
            expected(USER, EVENTS, context),
        )
        # What the request says of the clock and of the user comes first.
        context = {"hour": 3, "day": 2}
        user = {"town": "oslo", "height": None}
        stored = {"town": "oslo", "tags": USER["tags"]}
        check(
            ask(app, context=context, user=user),
            "full",
            expected(stored, EVENTS, context),
        )
        check(
            ask(app, user_id="stranger", user={"tags": [9]}),
            "no_history",
            expected({"tags": [9]}, [], {}),
        )
        # Without features of the candidates these are missing.
        answers = ask(app, candidates={})
        check(answers, "cached", expected(USER, EVENTS, {}, SKUS, [-4] * 3))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"context": {"color": 1}}, "`context` must name features of the"),
        ({"context": {"words": "many"}}, "context['words']"),
        ({"context": {"device": 0.5}}, "context['device']"),
        ({"candidates": {"discount": [1]}}, "candidates['discount']"),
        ({"candidates": {"discount": ["x"] * 3}}, "candidates['discount']"),
        ({"candidates": {"position": [1, 2, 3]}}, "`candidates` must name"),
        ({"user": {"tags": [1, 2, 3, 4]}}, "user['tags']"),
        ({"user": {"height": "tall"}}, "user['height']"),
        ({"user": {"size": 3}}, "`user` must name features of the model"),
        ({"candidate_item_ids": [0]}, "candidate_item_ids"),
        ({"user_id": ""}, "user_id"),
    ],
)
def test_values_that_the_model_does_not_take(shop_app, fields, text):
    """The field is named in one line, by both protocols."""
    asked = {"user_id": "7", "candidate_item_ids": SKUS, **fields}
    status, _, answer = post(shop_app, "/v1/rank", asked)
    assert status == 400 and text in answer["error"], answer
    assert "\n" not in answer["error"]
    with RankingClient(shop_app.grpc_target) as client:
        with pytest.raises((InvalidArgumentError, ValueError)) as told:
            client.rank(RankingRequest(**asked))
    assert text in str(told.value)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"behaviors": {"color": [1]}}, "behaviors: expected features"),
        ({"behaviors": {"action": [0.5]}}, "behaviors['action']"),
        ({"behaviors": {"price": ["x"]}}, "behaviors['price']"),
        ({"behaviors": {"age": [1]}}, "Received: ['age']"),
        ({"user": {"tags": [1, 2, 3, 4]}}, "user['tags']: expected at most 3"),
        ({"times": [NOW * 1000]}, "times: expected whole seconds"),
        ({"times": [1, 2]}, "times"),
    ],
)
def test_events_that_the_store_does_not_keep(shop_app, fields, text):
    body = {"user_id": "8", "item_ids": ["tea"], **fields}
    status, _, answer = post(shop_app, "/v1/events", body)
    assert status == 400 and text in answer["error"], answer
    assert "\n" not in answer["error"]
    with RankingClient(shop_app.grpc_target) as client:
        with pytest.raises((InvalidArgumentError, ValueError)) as told:
            client.append_events(**body)
    assert text in str(told.value)


@pytest.fixture(scope="module")
def shop_app(shop, tmp_path_factory):
    url = f"lmdb:{tmp_path_factory.mktemp('shop_store')}/store"
    open_store(url, Layout.of(declared())).close()
    with started(shop, url) as app:
        yield app


def test_events_without_times_happen_now(shop, tmp_path):
    url = f"lmdb:{tmp_path}/store"
    open_store(url, Layout.of(declared())).close()
    with started(shop, url, history_limit=2) as app:
        body = {"user_id": "7", "item_ids": ["a", "b", "c"]}
        # Those beyond the limit are not kept, and not counted.
        assert post(app, "/v1/events", body)[2] == {"appended": 2}
    with open_store(url) as store:
        found = store.read("7")
    assert found.times.tolist() == [NOW] * 2
    assert found.item_ids.tolist() == [
        stable_id("item_id", sku) for sku in "bc"
    ]


def test_items_that_the_service_found_have_their_texts(shop, tmp_path):
    """Those of a table, and decimal numbers where it has none."""
    url = f"lmdb:{tmp_path}/store"
    open_store(url, Layout.of(declared())).close()
    names = tmp_path / "item_names.parquet"
    table = pa.table({"item_id": [9, 7, 11], "name": ["nine", "7up", "no"]})
    pq.write_table(table, names)
    found, _ = toy_matching.expected([])
    texts = {9: "nine", 7: "7up"}
    for path, known in (("", {}), (str(names), texts)):
        with started(shop, url, item_names=path) as app:
            with RankingClient(app.grpc_target) as client:
                answer = client.rank(RankingRequest("7"))
            body = {"user_id": "7", "top": 5}
            _, _, other = post(app, "/v1/rank", body)
        assert answer.candidates_from == "matching"
        told = [known.get(item, str(item)) for item in found]
        assert answer.candidate_item_ids.tolist() == told
        assert sorted(other["candidate_item_ids"]) == sorted(told)


def test_answers_are_sorted_by_the_label_of_the_settings(shop, tmp_path):
    url = f"lmdb:{tmp_path}/store"
    open_store(url, Layout.of(declared())).close()
    click = expected({}, [], {})
    for label, order in (("", np.argsort(-click)), ("buy", np.argsort(click))):
        with started(shop, url, label=label) as app:
            answers = ask(app, top=2)
        items = [SKUS[place] for place in order[:2]]
        check(answers, "no_history", click[order[:2]], items)


def ready(app) -> tuple[int, dict[str, str]]:
    import urllib.error
    import urllib.request

    try:
        found = urllib.request.urlopen(app.rest_url + "/readyz", timeout=20)
    except urllib.error.HTTPError as error:
        found = error
    with found:
        return found.status, json.load(found)


def changed(old: str, new: str) -> RankingSchema:
    import yaml

    from tests.serving.ranking_service import toy_shop

    assert old in toy_shop.TEXT
    return RankingSchema.model_validate(
        yaml.safe_load(toy_shop.TEXT.replace(old, new))
    )


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("tags: {many: 3}", "tags: {many: 4}", "user_tags: .* of 4; .* of 3"),
        ("height: {type: float}", "height:", "user_height: .*int64.*float32"),
        ("price: {type: float, buckets: 4}", "", "behavior_price: .* none"),
        ("age: {time: since}", "", "behavior_age: .* none"),
    ],
)
def test_a_store_of_other_data_is_not_ready(shop, tmp_path, old, new, told):
    """Its record and the model's inputs are compared, by name."""
    url = f"lmdb:{tmp_path}/store"
    open_store(url, Layout.of(changed(old, new))).close()
    with started(shop, url) as app:
        status, answer = ready(app)
    assert status == 503 and "\n" not in answer["problem"]
    assert re.search(told, answer["problem"]), answer
    assert "muse store load" in answer["problem"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("name: shop", "name: other", ""),
        ("town: {type: string}", "town:", "user_town: .*int64; .*texts"),
        ("Asia/Tokyo", "Europe/Rome", "context_hour: .*Rome; .*Tokyo"),
    ],
)
def test_the_model_s_manifest_is_compared(shop, tmp_path, old, new, told):
    """What the inputs do not show: texts, and time zones."""
    url = f"lmdb:{tmp_path}/store"
    open_store(url, Layout.of(changed(old, new))).close()
    own = declared()
    entry = {
        "digest": own.digest(),
        "version": own.version,
        "name": own.name,
        "declaration": own.model_dump(mode="json"),
    }
    manifest = tmp_path / "model" / "1" / "muse_export.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"schema": entry}))
    base = str(tmp_path / "model")
    with started(shop, url, model_base_path=base) as app:
        status, answer = ready(app)
    if told:
        assert status == 503
        assert re.search(told, answer["problem"]), answer
    else:
        assert answer == {"status": "ready"}


def test_a_label_that_the_model_lacks(shop, tmp_path):
    with started(shop, "", label="rating") as app:
        status, answer = ready(app)
    assert status == 503
    assert "label: expected one of the model's, buy, click" in answer["problem"]
