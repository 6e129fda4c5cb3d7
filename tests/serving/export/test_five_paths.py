"""The same requests by every path give the same scores."""

import pathlib

import numpy as np

from serving.client import (
    CachedRankRequest,
    MuseClient,
    PrefetchRequest,
    RankRequest,
)
from serving.client.ranking import RankingClient, RankingRequest
from serving.ranking_service import ServiceConfig, running_service
from serving.stores import open_store
from tests.serving import toy_store
from tests.serving.export.test_signatures import oracle_scores
from tests.serving.export.world import (
    World,
    make_requests,
    rank_inputs,
    rank_request,
    to_example,
)

TOLERANCE = 1e-5


def by_service(
    requests: list[RankRequest], target: str, folder: pathlib.Path
) -> list[np.ndarray]:
    """Scores by the ranking service, from histories in a store."""
    url = f"lmdb:{folder / 'store'}"
    with open_store(url, toy_store.LAYOUT) as store:
        for number, request in enumerate(requests, 1):
            store.append(
                number,
                request.behavior_item_ids,
                request.behaviors,
                request.user,
            )
    config = ServiceConfig(
        store=url,
        targets=(target,),
        matching_model="",
        port=0,
        rest_port=-1,
        deadline_ms=9000,
        stage_budget_ms={"prefetch": 5000, "rank_cached": 5000},
    )
    with (
        running_service(config) as app,
        RankingClient(app.grpc_target) as client,
    ):
        answers = [
            client.rank(RankingRequest(number, request.candidate_item_ids))
            for number, request in enumerate(requests, 1)
        ]
    assert {answer.path for answer in answers} == {"cached"}
    return [answer.click_probability for answer in answers]


def test_all_paths_give_the_same_scores(
    world: World, server, tmp_path: pathlib.Path
) -> None:
    requests = make_requests(world.item_table, 15, seed=8)
    typed = [rank_request(r) for r in requests]
    examples = [to_example(r) for r in requests]
    in_process = world.call("rank", **rank_inputs(requests))
    with (
        MuseClient(server.grpc_target) as grpc,
        MuseClient(server.rest_url, "rest") as rest,
    ):
        cached = []
        for request in typed:
            assert grpc.prefetch(
                PrefetchRequest(
                    request.user_id,
                    request.behavior_item_ids,
                    request.user,
                    request.behaviors,
                )
            ).cached
            answer = grpc.rank_cached(
                CachedRankRequest(request.user_id, request.candidate_item_ids)
            )
            assert answer.cache_hit
            cached.append(answer.click_probability)
        paths = {
            "history from the device": cached,
            "SavedModel in process": [
                row[: len(r["candidate_item_ids"])]
                for row, r in zip(
                    in_process["click_probability"], requests, strict=True
                )
            ],
            "gRPC": [a.click_probability for a in grpc.rank(typed)],
            "REST": [a.click_probability for a in rest.rank(typed)],
            "Examples by gRPC": [
                a.click_probability for a in grpc.predict_examples(examples)
            ],
            "Examples by REST": [
                a.click_probability for a in rest.predict_examples(examples)
            ],
            "ranking service": by_service(typed, server.grpc_target, tmp_path),
        }
    expected = [oracle_scores(world, request) for request in requests]
    assert np.std(np.concatenate(expected)) > 0.05
    for path, scores in paths.items():
        for row, (found, wanted) in enumerate(
            zip(scores, expected, strict=True)
        ):
            np.testing.assert_allclose(
                found, wanted, atol=TOLERANCE, err_msg=f"{path}, row {row}"
            )
