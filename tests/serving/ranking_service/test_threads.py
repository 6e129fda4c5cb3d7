"""More callers than the model server has threads: every request is ranked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.client import MuseClient
from serving.client.ranking import RankingClient, RankingRequest
from serving.model_server import ServerConfig, running
from serving.ranking_service import ServiceConfig, running_service
from tests.serving import toy_muse
from tests.serving.ranking_service.conftest import settings

pytestmark = pytest.mark.once

CALLERS = 16
REQUESTS = 200


@pytest.fixture(scope="module")
def few_threads(models_config):
    config = ServerConfig(
        model_config_file=str(models_config),
        port=0,
        rest_api_port=-1,
        grpc_max_threads=4,
    )
    with running(config) as app:
        yield app.grpc_target


# With the number of the flag, and with far too large a one.
@pytest.mark.parametrize("calls", [3, 63])
def test_nothing_is_unranked_while_there_is_time(site, few_threads, calls):
    config = settings(site, targets=(few_threads,), calls_per_target=calls)
    users = [request.user_id for request in site.requests]
    with (
        running_service(ServiceConfig(**config)) as app,
        RankingClient(app.grpc_target) as client,
        ThreadPoolExecutor(CALLERS) as pool,
    ):
        answers = list(
            pool.map(
                lambda index: client.rank(
                    RankingRequest(users[index % len(users)], [3, 4, 5])
                ),
                range(REQUESTS),
            )
        )
    paths = [answer.path for answer in answers]
    assert "unranked" not in paths
    assert paths.count("cached") + paths.count("full") > REQUESTS / 2


def test_a_client_waits_for_a_thread(site, few_threads):
    request = site.request(5)
    with (
        MuseClient(few_threads) as client,
        ThreadPoolExecutor(CALLERS) as pool,
    ):
        found = list(
            pool.map(lambda _: client.rank(request), range(4 * CALLERS))
        )
    expected = toy_muse.expected_score(request)
    for one in found:
        assert one.click_probability == pytest.approx(expected, abs=1e-5)
