"""Exports of models without features of users and behaviors."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from serving.client import (
    CachedRankRequest,
    MuseClient,
    PrefetchRequest,
    Timeouts,
)
from serving.export import kernel_report
from tests.serving.export.test_signatures import oracle_scores
from tests.serving.export.world import (
    World,
    make_requests,
    make_world,
    rank_request,
    to_example,
)

pytest.importorskip("tensorflow")

LAYOUT: dict[str, tuple[str, ...]] = {
    "user": (),
    "item": ("brand",),
    "behavior": (),
    "matches": (),
}
pytestmark = pytest.mark.once

NEW = 4_000_000_001


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("other"), LAYOUT)


@pytest.fixture(scope="module")
def server(other: World) -> Iterator[Any]:
    """A server without a warmup: not all signatures are called here."""
    from serving.model_server import ServerConfig, running

    config = ServerConfig(
        model_base_path=str(other.export.path.parent),
        port=0,
        rest_api_port=0,
        enable_model_warmup=False,
    )
    with running(config) as app:
        yield app


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[MuseClient]:
    # The first call of a signature waits for its graph.
    timeouts = Timeouts(call=90, total=90)
    with MuseClient(server.grpc_target, timeouts=timeouts) as opened:
        yield opened


def test_every_path_gives_the_scores_of_the_model(
    other: World, server: Any, client: MuseClient
) -> None:
    requests = make_requests(other.item_table, 10, 8, other.features)
    typed = [rank_request(request) for request in requests]
    expected = [oracle_scores(other, request) for request in requests]
    assert np.std(np.concatenate(expected)) > 0.05
    paths = {
        "rank": client.rank(typed),
        "explain": client.explain(typed),
        "serving_default": client.predict_examples(
            [to_example(request) for request in requests]
        ),
    }
    with MuseClient(server.rest_url, "rest") as rest:
        paths["REST"] = rest.rank(typed)
    for by_rows in (False, True):
        cached = paths[f"cached, by rows: {by_rows}"] = []
        for request in typed:
            history = {"behavior_item_ids": request.behavior_item_ids}
            if by_rows and len(request.behavior_item_ids):
                found = client.resolve_items(request.behavior_item_ids)
                history = {
                    "behavior_rows": found.rows,
                    "table_stamp": found.table_stamp,
                }
            client.prefetch(
                PrefetchRequest(
                    request.user_id,
                    user=request.user,
                    behaviors=request.behaviors,
                    **history,
                )
            )
            cached.append(
                client.rank_cached(
                    CachedRankRequest(
                        request.user_id, request.candidate_item_ids
                    )
                )
            )
            assert cached[-1].cache_hit
    for path, answers in paths.items():
        for row, wanted in enumerate(expected):
            np.testing.assert_allclose(
                answers[row].click_probability,
                wanted,
                atol=1e-5,
                err_msg=f"{path}, row {row}",
            )


def test_a_fresh_item_scores_as_one_of_the_table(
    other: World, client: MuseClient
) -> None:
    """One with the vector and features of an item, and an id of its own."""
    table = other.item_table
    row = 31
    (request,) = make_requests(table, 1, 9, other.features)
    request["behavior_item_ids"] = table.item_ids[40:44]
    request["candidate_item_ids"] = table.item_ids[row - 1 : row]
    # The new id has the trained embedding of unknown items.
    embeddings = other.model.item_embedding.embeddings
    before = embeddings.numpy()
    changed = before.copy()
    changed[row] = before[0]
    embeddings.assign(changed)
    expected = oracle_scores(other, request)
    embeddings.assign(before)
    stored = client.upsert_items(
        [NEW],
        table.codes[row : row + 1] / np.float32(127),
        {
            name: column[row : row + 1]
            for name, column in table.features.items()
        },
    ).stored
    assert stored.all()
    request["candidate_item_ids"] = np.array([NEW])
    scores = client.rank(rank_request(request)).click_probability
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_runs_on_a_gpu(other: World) -> None:
    for signature in ("rank", "rank_cached", "prefetch", "explain"):
        report = kernel_report(other.export.path, signature)
        assert report.passed, str(report)


def test_the_manifest_has_the_declared_names(other: World) -> None:
    manifest = other.export.manifest
    assert manifest["features"] == {
        "context": [],
        "candidate": [],
        **{group: list(names) for group, names in other.features.items()},
    }
    assert manifest["index_sizes"] == {
        name: len(ids) + 2 for name, ids in other.vocabularies.items()
    }
