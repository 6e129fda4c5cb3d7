"""Features by name: of the request, of the store, and of the served model."""

from __future__ import annotations

import dataclasses
import pathlib
import time

import grpc
import numpy as np
import pytest

from serving.client import InvalidArgumentError, RankRequest, RequestError
from serving.client.ranking import RankingClient, RankingRequest
from serving.ranking_service import ServiceConfig, running_service
from serving.stores import Layout, open_store
from tests.serving import toy_muse, toy_store
from tests.serving.front import front_of
from tests.serving.ranking_service.conftest import (
    UNHURRIED,
    fill,
    settings,
)
from tests.serving.ranking_service.test_protocols import post

pytestmark = [pytest.mark.once, pytest.mark.tf]
USER, CANDIDATES = 903, [3, 4, 5]
HISTORY = RankRequest(
    USER,
    CANDIDATES,
    [3, 3, 4, 9],
    {"age": 30, "city": 200, "income": 70},
    {"action": [5, 6, 7, 8], "dwell": [90, 80, 70, 60], "page": [1, 2, 3, 4]},
)


def declared(request: RankRequest, user, behaviors) -> RankRequest:
    """The request with the features of these names only."""
    return dataclasses.replace(
        request,
        user={name: request.user[name] for name in user},
        behaviors={name: request.behaviors[name] for name in behaviors},
    )


def check(answer, path: str, request: RankRequest) -> None:
    assert answer.path == path, answer.stages
    np.testing.assert_allclose(
        answer.click_probability, toy_muse.expected_score(request), atol=1e-5
    )


@pytest.fixture
def own_store(site, tmp_path) -> str:
    url = f"lmdb:{tmp_path}/own"
    fill(url, site.requests)
    return url


def test_user_features_of_a_request(site, own_store):
    """They count for it alone: the cache keeps what the store has."""
    request = site.request(10)
    ids, candidates = request.user_id, request.candidate_item_ids
    stored = request.user
    changed = dataclasses.replace(request, user={**stored, "profile_2": 777})
    config = settings(site, store=own_store, **UNHURRIED)
    with (
        running_service(ServiceConfig(**config)) as app,
        RankingClient(app.grpc_target) as client,
    ):
        check(client.rank(RankingRequest(ids, candidates)), "cached", request)
        asked = RankingRequest(ids, candidates, user={"profile_2": 777})
        answer = client.rank(asked)
        check(answer, "full", changed)
        assert {stage.name for stage in answer.stages} == {
            "store_read",
            "rank_full",
        }
        body = {
            "user_id": ids,
            "candidate_item_ids": candidates.tolist(),
            "user": {"profile_2": "777"},
        }
        status, _, found = post(app, "/v1/rank", body)
        assert (status, found["path"]) == (200, "full")
        np.testing.assert_allclose(
            found["click_probability"], answer.click_probability, atol=1e-5
        )
        check(client.rank(RankingRequest(ids, candidates)), "cached", request)
        # A user without a history has the features, too.
        stranger = RankRequest(77, candidates, user={"profile_5": 400})
        answer = client.rank(RankingRequest(77, candidates, user=stranger.user))
        check(answer, "no_history", stranger)


def test_user_features_without_a_store(site):
    request = site.request(10)
    ids, candidates = request.user_id, request.candidate_item_ids
    with (
        running_service(ServiceConfig(**settings(site, store=""))) as app,
        RankingClient(app.grpc_target) as client,
    ):
        user = {"profile_1": 300}
        answer = client.rank(RankingRequest(ids, candidates, user=user))
        check(answer, "no_history", RankRequest(ids, candidates, user=user))


def test_names_that_the_model_does_not_declare(site, service):
    request = site.request(10)
    ids, candidates = request.user_id, request.candidate_item_ids
    user = {"profile_1": 1, "age": 30}
    told = "name features of the model: profile_1, profile_2, profile_3"
    with RankingClient(service.grpc_target) as client:
        with pytest.raises(InvalidArgumentError, match=told) as refused:
            client.rank(RankingRequest(ids, candidates, user=user))
    assert "'age'" in str(refused.value)
    body = {
        "user_id": ids,
        "candidate_item_ids": candidates.tolist(),
        "user": user,
    }
    status, _, answer = post(service, "/v1/rank", body)
    assert status == 400
    assert told in answer["error"] and "'age'" in answer["error"]
    for wrong in (
        {"profile_1": 0.5},
        {"profile_1": [1]},
        [1],
        {"profile_1": ""},
    ):
        status, _, answer = post(service, "/v1/rank", {**body, "user": wrong})
        assert status == 400 and "user" in answer["error"], wrong


def test_features_of_events_and_users(site, tmp_path):
    """Set with the events or alone; other names are refused with the known."""
    store = f"lmdb:{tmp_path}/store"
    open_store(store, Layout(("age", "city"), ("action", "dwell"))).close()
    with (
        running_service(ServiceConfig(**settings(site, store=store))) as app,
        RankingClient(app.grpc_target) as client,
    ):
        assert client.append_events(5, [11], {"dwell": [7]}, {"age": 30}) == 1
        assert client.append_events(5, [12, 13], {"action": [1, 2]}) == 2
        assert client.append_events(6, [], user={"city": 4}) == 0
        for features, told in (
            ({"behaviors": {"category": [1]}}, "['action', 'dwell']"),
            ({"user": {"profile_1": 1}}, "['age', 'city']"),
        ):
            with pytest.raises(InvalidArgumentError) as refused:
                client.append_events(5, [14], **features)
            body = {"user_id": 5, "item_ids": [14], **features}
            status, _, answer = post(app, "/v1/events", body)
            name = next(iter(*features.values()))
            assert status == 400 and answer["error"] in str(refused.value)
            assert f"layout, {told}. Received: ['{name}']" in answer["error"]
        for arguments in (
            ([],),
            ([1], {"action": [1, 2]}),
            ([1], {"action": 1}),
            ([1], {}, {"age": [1]}),
            ([1], [1]),
        ):
            with pytest.raises((RequestError, InvalidArgumentError)):
                client.append_events(5, *arguments)
    with open_store(store) as opened:
        found = opened.read(5)
        assert found.item_ids.tolist() == [11, 12, 13]
        assert found.behaviors["action"].tolist() == [0, 1, 2]
        assert found.behaviors["dwell"].tolist() == [7, 0, 0]
        assert found.user == {"age": 30, "city": 0}
        assert opened.read(6).user == {"age": 0, "city": 4}
        assert len(opened.read(6)) == 0


@pytest.fixture
def large_store(tmp_path) -> str:
    """A store with more features than the models."""
    url = f"lmdb:{tmp_path}/large"
    layout = Layout(tuple(HISTORY.user), tuple(HISTORY.behaviors))
    with open_store(url, layout) as store:
        store.append(
            USER, HISTORY.behavior_item_ids, HISTORY.behaviors, HISTORY.user
        )
    return url


@pytest.fixture
def other_model(tmp_path):
    """A model of other features, served; and the folder of its versions."""
    from serving.model_server import ServerConfig, running

    base = tmp_path / "model"
    toy_muse.export_toy_muse(base, 1, user=("age",), behavior=("action",))
    config = ServerConfig(
        model_base_path=str(base),
        port=0,
        rest_api_port=0,
        file_system_poll_wait_seconds=1,
    )
    with running(config) as app:
        yield app.grpc_target, base


def test_the_store_keeps_more_than_the_model_declares(
    site, large_store, other_model
):
    """Every path scores what the model declares, also of a new version."""
    target, base = other_model
    asked = RankingRequest(USER, CANDIDATES)
    short = {"shortened_length": 2, "matching_model": ""}
    with front_of(target) as (front, address):
        config = settings(
            site, store=large_store, targets=(address,), **UNHURRIED, **short
        )
        with (
            running_service(ServiceConfig(**config)) as app,
            RankingClient(app.grpc_target) as client,
        ):
            first = declared(HISTORY, ["age"], ["action"])
            check(client.rank(asked), "cached", first)
            front.faults["muse", "prefetch"] = grpc.StatusCode.INTERNAL
            check(client.rank(asked), "full", first)
            # A feature of the request that only the store knows.
            with pytest.raises(InvalidArgumentError, match="model: age"):
                client.rank(
                    RankingRequest(USER, CANDIDATES, user={"income": 1})
                )
            export_next(base)
            second = declared(HISTORY, ["age", "city"], ["action", "dwell"])
            wanted = toy_muse.expected_score(second)
            ends = time.monotonic() + 60
            while time.monotonic() < ends:
                answer = client.rank(asked)
                # Either version's scores, never those of a mixture.
                right = second
                if not np.allclose(answer.click_probability, wanted, atol=1e-5):
                    right = first
                check(answer, "full", right)
                if right is second:
                    break
                time.sleep(0.05)
            assert right is second
            front.faults.clear()
            check(client.rank(asked), "cached", second)
            user = {"city": 1}
            answer = client.rank(RankingRequest(USER, CANDIDATES, user=user))
            changed = dataclasses.replace(second, user={**second.user, **user})
            check(answer, "full", changed)


def export_next(base: pathlib.Path) -> None:
    """Writes version 2, with more features, as a whole."""
    new = toy_muse.export_toy_muse(
        base.parent / "new",
        2,
        user=("age", "city"),
        behavior=("action", "dwell"),
    )
    new.rename(base / "2")


def test_the_store_keeps_less_than_the_model_declares(site, tmp_path):
    url = f"lmdb:{tmp_path}/small"
    with open_store(url, Layout()) as store:
        store.append(USER, HISTORY.behavior_item_ids)
    config = settings(site, store=url, **UNHURRIED)
    with (
        running_service(ServiceConfig(**config)) as app,
        RankingClient(app.grpc_target) as client,
    ):
        bare = RankRequest(USER, CANDIDATES, HISTORY.behavior_item_ids)
        check(client.rank(RankingRequest(USER, CANDIDATES)), "cached", bare)
        user = toy_store.user([5, 6, 7, 8, 9])
        answer = client.rank(RankingRequest(USER, CANDIDATES, user=user))
        check(answer, "full", dataclasses.replace(bare, user=user))
