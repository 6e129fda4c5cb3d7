r"""Load by hand with Locust: users of the ranking service and the model server.

    locust -f benchmarks/locustfile.py --items 200000 --user-ids 1000 \
        --service 127.0.0.1:8600 --service-rest http://127.0.0.1:8601 \
        --model-server 127.0.0.1:8500

and http://localhost:8089 in a browser, or `--headless -u 50 -t 1m`. Only users
whose server is named take part; names of classes at the end choose some of
them. Candidates follow Zipf's law. A user thinks for a random time between
two requests, `--think` seconds on average.
"""

from __future__ import annotations

import gc
import pathlib
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import grpc.experimental.gevent
import numpy as np
from locust import FastHttpUser, User, events, task

# Locust puts this file's folder on the path, not the project's.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks.load.zipf import Zipf  # noqa: E402
from serving.client import (  # noqa: E402
    CachedRankRequest,
    MuseClient,
    PrefetchRequest,
    RankingClient,
    RankingRequest,
    RankRequest,
    Retry,
)

grpc.experimental.gevent.init_gevent()
_generator = np.random.default_rng()
_clients: dict[Any, Any] = {}


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    """Say where the servers are and what they know."""
    group = parser.add_argument_group("MUSE")
    for name, text in (
        ("--service", "ranking service, gRPC, host:port"),
        ("--service-rest", "ranking service, REST, http://host:port"),
        ("--model-server", "model server, gRPC, host:port"),
        ("--model", "name of the ranking model"),
        ("--items", "item ids: N for 1 to N, or a .npy file of them"),
        ("--user-ids", "user ids: N for 1 to N, or a .npy file of them"),
    ):
        default = {"--model": "muse", "--items": "1000", "--user-ids": "1000"}
        group.add_argument(name, default=default.get(name, ""), help=text)
    for name, default_number, text in (
        ("--candidates", 1_000, "candidates of a request"),
        ("--history", 1_000, "behaviors sent to the model server"),
        ("--categories", 100, "category ids of behaviors: 1 to N"),
        ("--deadline-ms", 300, "of requests to the ranking service"),
    ):
        group.add_argument(name, type=int, default=default_number, help=text)
    group.add_argument(
        "--think", type=float, default=0.5, help="mean pause, seconds"
    )


@events.init.add_listener
def choose_users(environment: Any, **_: Any) -> None:
    """Leave out users whose server was not named."""
    options = environment.parsed_options
    Asking.items = Zipf(_generator.permutation(_ids(options.items)))
    Asking.users = Zipf(_ids(options.user_ids))
    there = [
        user
        for user in environment.user_classes
        if getattr(options, user.server)
    ]
    if not there:
        sys.exit("Name --service, --service-rest or --model-server.")
    environment.user_classes[:] = there


class Asking:
    """What all users share."""

    abstract = True
    items: Zipf
    users: Zipf
    environment: Any

    def wait_time(self) -> float:
        """Think for a random time."""
        mean = self.environment.parsed_options.think
        return random.expovariate(1 / mean) if mean else 0.0

    def draw(self) -> tuple[int, np.ndarray]:
        """Draw a user and candidates."""
        count = self.environment.parsed_options.candidates
        count = min(count, len(self.items.ids))
        user = int(self.users.draw(1, _generator)[0])
        return user, self.items.distinct(count, _generator)

    def measured(self, name: str, call: Callable[[], Any]) -> Any:
        """Make a call that is not HTTP, and tell Locust of it."""
        start, error, answer = time.perf_counter(), None, None
        try:
            answer = call()
        except Exception as raised:
            error = raised
        self.environment.events.request.fire(
            request_type="gRPC",
            name=name,
            response_time=1e3 * (time.perf_counter() - start),
            response_length=0,
            exception=error,
            context={},
        )
        return answer


class ServiceByGrpc(Asking, User):
    """Asks the ranking service by gRPC, and sends it events."""

    server = "service"

    @property
    def client(self) -> RankingClient:
        """The connection, one for all users."""
        return _client(RankingClient, self.environment.parsed_options.service)

    @task(3)
    def rank(self) -> None:
        """Rank given candidates."""
        user, candidates = self.draw()
        self._rank("service rank", RankingRequest(user, candidates))

    @task(2)
    def match_and_rank(self) -> None:
        """Let the service find the candidates."""
        user, candidates = self.draw()
        self._rank(
            "service match + rank",
            RankingRequest(user, num_candidates=len(candidates)),
        )

    @task(1)
    def append(self) -> None:
        """Append an event."""
        user, candidates = self.draw()
        self.measured(
            "service append",
            lambda: self.client.append_events(
                user, candidates[:1], {"category": [1]}
            ),
        )

    def _rank(self, name: str, request: RankingRequest) -> None:
        deadline = float(self.environment.parsed_options.deadline_ms)
        object.__setattr__(request, "deadline_ms", deadline)
        self.measured(name, lambda: self.client.rank(request))


class ServiceByRest(Asking, FastHttpUser):
    """Asks the ranking service by REST."""

    server = "service_rest"

    def __init__(self, environment: Any) -> None:
        """Take the address from the options."""
        self.host = environment.parsed_options.service_rest
        super().__init__(environment)

    @task
    def rank(self) -> None:
        """Rank given candidates."""
        user, candidates = self.draw()
        body = {
            "user_id": user,
            "candidate_item_ids": candidates.tolist(),
            "deadline_ms": self.environment.parsed_options.deadline_ms,
        }
        with self.client.post(
            "/v1/rank", json=body, catch_response=True
        ) as answer:
            if answer.status_code == 200 and not answer.json().get("path"):
                answer.failure("no path in the answer")


class ModelServerRank(Asking, User):
    """Ranks with the whole history in the request."""

    server = "model_server"

    @property
    def client(self) -> MuseClient:
        """The connection, one for all users."""
        return _model_client(self.environment)

    @task
    def rank(self) -> None:
        """Rank given candidates."""
        user, candidates = self.draw()
        items, categories = _history(self.environment, self.items)
        request = RankRequest(
            user, candidates, items, behaviors={"category": categories}
        )
        self.measured("rank", lambda: self.client.rank(request))


class ModelServerCached(Asking, User):
    """Prefetches a user's history, then ranks from the cache a few times."""

    server = "model_server"
    times = 3

    @property
    def client(self) -> MuseClient:
        """The connection, one for all users."""
        return _model_client(self.environment)

    @task
    def prefetch_and_rank(self) -> None:
        """Prefetch and rank."""
        user, _ = self.draw()
        items, categories = _history(self.environment, self.items)
        history = PrefetchRequest(
            user, items, behaviors={"category": categories}
        )
        self.measured("prefetch", lambda: self.client.prefetch(history))
        for _ in range(self.times):
            request = CachedRankRequest(user, self.draw()[1])
            self.measured(
                "rank_cached", lambda r=request: self.client.rank_cached(r)
            )


def _client(kind: Any, target: str, **settings: Any) -> Any:
    if kind not in _clients:
        _clients[kind] = kind(target, **settings)
    return _clients[kind]


def _model_client(environment: Any) -> Any:
    options = environment.parsed_options
    return _client(
        MuseClient,
        options.model_server,
        model=options.model,
        retry=Retry(attempts=1),
    )


@events.quit.add_listener
def close_clients(**_: Any) -> None:
    """Close the connections while gevent is still there."""
    for client in _clients.values():
        client.close()
    _clients.clear()
    gc.collect()


def _history(environment: Any, items: Zipf) -> tuple[np.ndarray, np.ndarray]:
    options = environment.parsed_options
    return (
        _generator.choice(items.ids, options.history),
        _generator.integers(1, options.categories + 1, options.history),
    )


def _ids(given: str) -> np.ndarray:
    if given.isdigit():
        return np.arange(1, int(given) + 1, dtype=np.int64)
    return np.load(given).astype(np.int64)
