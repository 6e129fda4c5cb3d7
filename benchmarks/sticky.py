"""What sticky routing saves: a user's own model server against any.

Three embedded servers in this process, each with a user cache of 64 users,
serve a MUSE ranker with random weights and are called by gRPC. Requests of
random users come one after the other. Each calls `rank_cached`; after a miss,
it sends the history (`prefetch`) and calls again. The peer sends a request to
one server after the other, as a load balancer does; ours to the server that
the ranking service chooses (`serving.ranking_service.targets`). Each begins
with a request of every user, which does not count.

Then one server stops, and later another one starts in its place: ours counts
from the first request after the change, when users have moved. The peer has
been measured before, with three servers. Each case has a line for the median
and one for the 99th percentile; hit rates are facts.

The answers agree when all are within 1e-5 of `rank` with the whole history.
"""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

from benchmarks import harness

USERS, QUICK_USERS = 120, 30
LENGTH, QUICK_LENGTH = 5_000, 1_000
REQUESTS, QUICK_REQUESTS = 240, 90
NUM_ITEMS, CANDIDATES, SERVERS = 20_000, 100, 3
TOLERANCE = 1e-5


def main() -> None:
    """Time both ways with three servers, with two, and with three again."""
    arguments = harness.parser(__doc__).parse_args()
    harness.pin(arguments.threads)
    report = harness.Report("sticky", arguments)
    with tempfile.TemporaryDirectory(prefix="muse-sticky-") as folder:
        _run(pathlib.Path(folder), arguments.quick, report)
    report.close()


def _run(folder: pathlib.Path, quick: bool, report: Any) -> None:
    """Export, serve and measure each state of the servers."""
    from benchmarks import models
    from serving.client import MuseClient, Timeouts
    from serving.model_server import ServerConfig, running

    length = QUICK_LENGTH if quick else LENGTH
    harness.say("sticky: exporting a model")
    muse = models.export_muse(folder, NUM_ITEMS, with_user_cache=True)
    requests = [
        models.rank_request(NUM_ITEMS, CANDIDATES, length, seed=user)
        for user in range(QUICK_USERS if quick else USERS)
    ]
    timeouts = Timeouts(call=60, total=60)
    config = ServerConfig(
        model_base_path=str(muse.parent), port=0, rest_api_port=-1
    )
    with contextlib.ExitStack() as all_servers:
        servers: dict[str, Any] = {}

        def start() -> contextlib.ExitStack:
            harness.say("sticky: starting a server")
            stack = all_servers.enter_context(contextlib.ExitStack())
            target = stack.enter_context(running(config)).grpc_target
            servers[target] = stack.enter_context(
                MuseClient(target, timeouts=timeouts)
            )
            stack.callback(servers.pop, target)
            return stack

        last = [start() for _ in range(SERVERS)][-1]
        client = next(iter(servers.values()))
        right = [
            client.predict("rank", request)["click_probability"]
            for request in requests
        ]
        number = QUICK_REQUESTS if quick else REQUESTS
        bench = _Bench(report, servers, requests, right, number)
        bench.measure_peer()
        bench.warm_up(bench.own)
        bench.measure(f"{SERVERS} servers")
        last.close()
        bench.measure(f"{SERVERS - 1} servers, one has stopped")
        start()
        bench.measure(f"{SERVERS} servers, one is new")


class _Bench:
    """Sends requests of random users.

    Args:
        report: the report.
        servers: the client of each server, by address.
        requests: a request of each user.
        right: the probabilities of each.
        number: requests of a measurement.
    """

    def __init__(
        self,
        report: Any,
        servers: dict[str, Any],
        requests: list[dict[str, Any]],
        right: list[Any],
        number: int,
    ) -> None:
        import numpy as np

        self._report = report
        self._servers = servers
        self._requests = requests
        self._right = right
        self._number = number
        self._random = np.random.default_rng(0)
        self._peer: list[float] = []

    def own(self, user: int) -> str:
        """Return the address of a user's own server."""
        from serving.ranking_service.targets import by_user

        return by_user(user, list(self._servers))[0]

    def warm_up(self, address_of: Callable[[int], str]) -> None:
        """Send a request of every user."""
        for user in self._random.permutation(len(self._requests)).tolist():
            self._ask(self._servers[address_of(user)], user)

    def measure_peer(self) -> None:
        """Measure one server after the other."""
        turns = itertools.cycle(list(self._servers))
        self.warm_up(lambda _: next(turns))
        self._peer, hits, agree = self._measured(lambda _: next(turns))
        if not agree:
            self._report.wrong("any server")
        self._report.fact(
            "any server", requests=self._number, hit_rate=round(hits, 3)
        )

    def measure(self, case: str) -> None:
        """Measure and report ours in one state of the servers."""
        import numpy as np

        harness.say(f"sticky: {case}")
        times, hits, agree = self._measured(self.own)
        for share in (50, 99):
            self._report.add(
                f"p{share}, {case}",
                float(np.percentile(times, share)),
                {"any server": float(np.percentile(self._peer, share))},
                agree=agree,
                agree_by=f"probabilities within {TOLERANCE} of rank",
            )
        self._report.fact(case, requests=self._number, hit_rate=round(hits, 3))

    def _measured(
        self, address_of: Callable[[int], str]
    ) -> tuple[list[float], float, bool]:
        """Return times in ms, the share of hits, and whether all agree."""
        import numpy as np

        times: list[float] = []
        hits, agree = 0, True
        users = self._random.integers(0, len(self._requests), self._number)
        for user in users.tolist():
            client = self._servers[address_of(user)]
            answer: dict[str, Any] = {}

            def call(
                client: Any = client,
                answer: dict[str, Any] = answer,
                user: int = user,
            ) -> None:
                answer.update(self._ask(client, user))

            times.append(harness.timed(call)())
            hits += answer["hit"]
            apart = np.abs(answer["scores"] - self._right[user]).max()
            agree = agree and float(apart) <= TOLERANCE
        return times, hits / self._number, agree

    def _ask(self, client: Any, user: int) -> dict[str, Any]:
        request = self._requests[user]
        short = {k: request[k] for k in ("user_id", "candidate_item_ids")}
        found = client.predict("rank_cached", short)
        hit = bool(found["cache_hit"].all())
        if not hit:
            history = {
                k: v for k, v in request.items() if k != "candidate_item_ids"
            }
            client.predict("prefetch", history)
            found = client.predict("rank_cached", short)
        return {"hit": hit, "scores": found["click_probability"]}


if __name__ == "__main__":
    main()
