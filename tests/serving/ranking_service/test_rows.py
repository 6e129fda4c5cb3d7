"""Histories that the store keeps as rows of the model's item table."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from serving.client import RankRequest
from serving.client.ranking import RankingClient, RankingRequest
from serving.ranking_service import ServiceConfig, running_service
from serving.stores import open_store
from tests.serving import toy_muse
from tests.serving.ranking_service.conftest import UNHURRIED, settings
from tests.serving.toy_store import LAYOUT

ITEMS, ROWS, CANDIDATES = [1, 2, 3], [7, 7, 9], [1, 2, 3, 7, 9]
SAME_TABLE, OTHER_TABLE, APPENDED = 501, 502, 503


@pytest.fixture(scope="module")
def app(site, tmp_path_factory) -> Iterator:
    url = f"lmdb:{tmp_path_factory.mktemp('rows')}/store"
    stamps = {
        SAME_TABLE: toy_muse.TABLE_STAMP,
        OTHER_TABLE: toy_muse.TABLE_STAMP + 1,
        APPENDED: toy_muse.TABLE_STAMP,
    }
    with open_store(url, LAYOUT) as store:
        for user, stamp in stamps.items():
            store.append(user, ITEMS, {"category": [4, 5, 6]})
            # Rows that are not the items' tell which of both was used.
            assert store.set_rows(user, ROWS, stamp)
    with running_service(
        ServiceConfig(**settings(site, store=url, **UNHURRIED))
    ) as app:
        yield app


def check(app, user: int, items: list[int], categories: list[int]) -> None:
    with RankingClient(app.grpc_target) as client:
        answer = client.rank(RankingRequest(user, CANDIDATES))
    assert answer.path == "cached"
    assert answer.history_length == len(items)
    outcomes = {stage.name: stage.outcome for stage in answer.stages}
    assert outcomes["prefetch"] == "ok"
    np.testing.assert_allclose(
        answer.click_probability,
        toy_muse.expected_score(
            RankRequest(user, CANDIDATES, items, {}, {"category": categories})
        ),
        atol=1e-5,
    )


def test_rows_of_the_served_table_are_prefetched(app) -> None:
    check(app, SAME_TABLE, ROWS, [4, 5, 6])


def test_rows_of_another_table_are_not(app) -> None:
    check(app, OTHER_TABLE, ITEMS, [4, 5, 6])


def test_events_make_rows_useless(app) -> None:
    check(app, APPENDED, ROWS, [4, 5, 6])
    with RankingClient(app.grpc_target) as client:
        client.append_events(APPENDED, [9], {"category": [1]})
    check(app, APPENDED, [*ITEMS, 9], [4, 5, 6, 1])
