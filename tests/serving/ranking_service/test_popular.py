"""Candidates where retrieval has none: the popular items."""

from __future__ import annotations

import dataclasses

import grpc
import numpy as np
import pytest

from serving.client.ranking import RankingClient, RankingRequest
from serving.ranking_service import ServiceConfig, running_service
from tests.serving import toy_matching, toy_muse
from tests.serving.front import GARBAGE, HANGS, front_of
from tests.serving.ranking_service.conftest import BUDGETS, settings


@pytest.mark.parametrize(
    ("fault", "outcomes_known"),
    [
        (grpc.StatusCode.NOT_FOUND, {"error"}),
        (GARBAGE, {"error"}),
        (HANGS, {"timeout"}),
    ],
    ids=["refused", "garbage", "hangs"],
)
def test_matching_has_none_in_time(site, fault, outcomes_known) -> None:
    request = site.request(10)
    popular, _ = toy_matching.expected([])
    with front_of(site.model_server) as (front, address):
        changes = {
            "targets": (address,),
            "deadline_ms": 4000,
            "stage_budget_ms": {**BUDGETS, "matching": 500},
        }
        with running_service(ServiceConfig(**settings(site, **changes))) as app:
            # Only now: it has found the popular ones by retrieval, too.
            front.faults["matching", "recommend"] = fault
            with RankingClient(app.grpc_target) as client:
                answer = client.rank(
                    RankingRequest(request.user_id, num_candidates=3)
                )
        assert front.met == [("matching", "recommend")]
    outcomes = {stage.name: stage.outcome for stage in answer.stages}
    assert answer.candidates_from == "popular"
    assert answer.candidate_item_ids.tolist() == popular[:3]
    assert outcomes["matching"] in outcomes_known
    assert answer.path in ("cached", "no_history")
    if answer.path == "cached":
        np.testing.assert_allclose(
            answer.click_probability,
            toy_muse.expected_score(
                dataclasses.replace(request, candidate_item_ids=popular[:3])
            ),
            atol=1e-5,
        )


def test_no_matching_model_means_popular_or_nothing(site) -> None:
    changes = {"matching_model": "", "deadline_ms": 500}
    with running_service(ServiceConfig(**settings(site, **changes))) as app:
        with RankingClient(app.grpc_target) as client:
            answer = client.rank(RankingRequest(site.request().user_id))
    assert (answer.path, answer.candidates_from) == ("unranked", "popular")
    assert not len(answer.candidate_item_ids)
