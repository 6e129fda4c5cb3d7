"""The service ranks as the model does, by every path."""

from __future__ import annotations

import json
import urllib.request

import numpy as np
import pytest

from serving.client import MuseClient
from serving.client.ranking import RankingClient, RankingRequest
from serving.service import ServiceConfig, running_service
from tests.serving import toy_matching
from tests.serving.service.conftest import settings

TOLERANCE = 1e-5


def post(url: str, body: dict) -> dict:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def test_seventh_path_gives_the_scores_of_the_others(site, service) -> None:
    from tests.serving.export.test_signatures import oracle_scores

    with (
        MuseClient(site.model_server) as model,
        RankingClient(service.grpc_target) as ranking,
    ):
        spread = []
        for request in site.requests[:12]:
            candidates = request.candidate_item_ids
            expected = model.rank(request).click_probability
            oracle = oracle_scores(site.world, fields(request))
            np.testing.assert_allclose(expected, oracle, atol=TOLERANCE)
            answer = ranking.rank(RankingRequest(request.user_id, candidates))
            assert answer.path == "cached", answer.stages
            assert answer.cache_hit and answer.generation > 0
            assert answer.history_length == len(request.behavior_item_ids)
            np.testing.assert_array_equal(answer.candidate_item_ids, candidates)
            np.testing.assert_allclose(
                answer.click_probability, expected, atol=TOLERANCE
            )
            by_rest = post(
                service.rest_url + "/v1/rank",
                {
                    "user_id": request.user_id,
                    "candidate_item_ids": candidates.tolist(),
                },
            )
            np.testing.assert_allclose(
                by_rest["click_probability"], expected, atol=TOLERANCE
            )
            spread.append(expected)
        assert np.std(np.concatenate(spread)) > 0.03


def test_stages_tell_what_ran_side_by_side(site, service) -> None:
    request = site.request()
    with RankingClient(service.grpc_target) as client:
        answer = client.rank(RankingRequest(request.user_id, num_candidates=4))
    assert answer.candidates_from == "matching"
    stages = {stage.name: stage for stage in answer.stages}
    assert set(stages) == {
        "store_read",
        "store_read_newest",
        "prefetch",
        "matching",
        "rank_cached",
    }
    assert {stage.outcome for stage in stages.values()} == {"ok"}
    ends = {n: s.start_ms + s.duration_ms for n, s in stages.items()}
    assert stages["prefetch"].start_ms >= ends["store_read"] - 0.01
    assert stages["rank_cached"].start_ms >= ends["prefetch"] - 0.01
    assert stages["rank_cached"].start_ms >= ends["matching"] - 0.01
    assert stages["store_read"].start_ms < ends["matching"]
    assert max(ends.values()) <= answer.total_ms + 0.01


def test_matching_gets_the_newest_behaviors(site, service) -> None:
    request = site.request(2)
    with RankingClient(service.grpc_target) as client:
        found = client.rank(RankingRequest(request.user_id, num_candidates=5))
    wanted, _ = toy_matching.expected(request.behavior_item_ids)
    assert found.candidate_item_ids.tolist() == wanted


def test_unknown_user_is_ranked_without_history(site, service) -> None:
    known = site.request()
    with (
        MuseClient(site.model_server) as model,
        RankingClient(service.grpc_target) as client,
    ):
        answer = client.rank(RankingRequest(5, known.candidate_item_ids))
        expected = model.rank(
            type(known)(5, [0] * 5, [], [], known.candidate_item_ids)
        )
    assert answer.path == "no_history"
    assert (answer.history_length, answer.cache_hit) == (0, False)
    np.testing.assert_allclose(
        answer.click_probability, expected.click_probability, atol=TOLERANCE
    )


def test_appended_events_count_at_once(site, service) -> None:
    base = site.requests[-1]
    items = site.world.item_table.item_ids[[100, 101]]
    with (
        MuseClient(site.model_server) as model,
        RankingClient(service.grpc_target) as client,
    ):
        before = client.rank(
            RankingRequest(base.user_id, base.candidate_item_ids)
        )
        assert client.append_events(base.user_id, items[:1], [11]) == 1
        post(
            service.rest_url + "/v1/events",
            {
                "user_id": base.user_id,
                "item_ids": items[1:].tolist(),
                "category_ids": [13],
            },
        )
        after = client.rank(
            RankingRequest(base.user_id, base.candidate_item_ids)
        )
        expected = model.rank(
            type(base)(
                base.user_id,
                base.user_profile,
                [*base.behavior_item_ids, *items],
                [*base.behavior_category_ids, 11, 13],
                base.candidate_item_ids,
            )
        )
    assert after.history_length == before.history_length + 2
    assert after.path == "cached"
    np.testing.assert_allclose(
        after.click_probability, expected.click_probability, atol=TOLERANCE
    )


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        # Without a server for the cache, the history in hand is used.
        ({"shortened_length": 3}, "full"),
    ],
)
def test_lost_prefetch(site, changes, path) -> None:
    request = site.request(5)
    config = ServiceConfig(**settings(site, **changes))
    with running_service(config) as app:
        lose_prefetches(app)
        with RankingClient(app.grpc_target) as client:
            answer = client.rank(
                RankingRequest(request.user_id, request.candidate_item_ids)
            )
    with MuseClient(site.model_server) as model:
        expected = model.rank(request).click_probability
    assert answer.path == path
    assert answer.history_length == len(request.behavior_item_ids)
    np.testing.assert_allclose(
        answer.click_probability, expected, atol=TOLERANCE
    )


def lose_prefetches(app) -> None:
    """Sends prefetches to a model that the server does not have."""
    from serving.client import AsyncMuseClient, Retry

    for target in app.service._targets.all:
        lost = AsyncMuseClient(
            target.address, model="nosuch", retry=Retry(attempts=1)
        )
        target.client.prefetch = lost.prefetch


def fields(request) -> dict[str, np.ndarray]:
    return {
        "user_id": np.array([request.user_id]),
        "user_profile": np.asarray(request.user_profile),
        "behavior_item_ids": np.asarray(request.behavior_item_ids),
        "behavior_category_ids": np.asarray(request.behavior_category_ids),
        "candidate_item_ids": np.asarray(request.candidate_item_ids),
    }
