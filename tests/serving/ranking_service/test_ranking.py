"""The service ranks as the model does, with what was prefetched."""

from __future__ import annotations

import dataclasses
import json
import urllib.request

import numpy as np

from serving.client import RankRequest
from serving.client.ranking import RankingClient, RankingRequest
from tests.serving import toy_matching, toy_muse

TOLERANCE = 1e-5


def post(url: str, body: dict) -> dict:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def test_cached_scores_are_those_of_rank(site, service) -> None:
    lengths = set()
    with RankingClient(service.grpc_target) as ranking:
        for request in site.requests:
            candidates = request.candidate_item_ids
            answer = ranking.rank(RankingRequest(request.user_id, candidates))
            assert answer.path == "cached", answer.stages
            assert answer.cache_hit and answer.generation > 0
            assert answer.history_length == len(request.behavior_item_ids)
            np.testing.assert_array_equal(answer.candidate_item_ids, candidates)
            np.testing.assert_allclose(
                answer.click_probability,
                toy_muse.expected_score(request),
                atol=TOLERANCE,
            )
            by_rest = post(
                service.rest_url + "/v1/rank",
                {
                    "user_id": request.user_id,
                    "candidate_item_ids": candidates.tolist(),
                },
            )
            np.testing.assert_allclose(
                by_rest["click_probability"],
                toy_muse.expected_score(request),
                atol=TOLERANCE,
            )
            lengths.add(answer.history_length)
    assert 0 in lengths and len(lengths) > 5


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
    with RankingClient(service.grpc_target) as client:
        answer = client.rank(RankingRequest(5, [3, 4]))
    assert answer.path == "no_history"
    assert (answer.history_length, answer.cache_hit) == (0, False)
    expected = toy_muse.expected_score(RankRequest(5, [3, 4]))
    np.testing.assert_allclose(
        answer.click_probability, expected, atol=TOLERANCE
    )


def test_appended_events_count_at_once(site, service) -> None:
    base = site.requests[-1]
    candidates = base.candidate_item_ids
    with RankingClient(service.grpc_target) as client:
        client.rank(RankingRequest(base.user_id, candidates))
        assert client.append_events(base.user_id, [7], {"category": [11]}) == 1
        post(
            service.rest_url + "/v1/events",
            {
                "user_id": base.user_id,
                "item_ids": [8],
                "behaviors": {"category": [13]},
            },
        )
        after = client.rank(RankingRequest(base.user_id, candidates))
    longer = dataclasses.replace(
        base,
        behavior_item_ids=[*base.behavior_item_ids, 7, 8],
        behaviors={"category": [*base.behaviors["category"], 11, 13]},
    )
    site.requests[-1] = longer
    assert after.path == "cached"
    assert after.history_length == len(longer.behavior_item_ids)
    np.testing.assert_allclose(
        after.click_probability,
        toy_muse.expected_score(longer),
        atol=TOLERANCE,
    )
