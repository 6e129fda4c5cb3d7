"""What sticky routing saves: a user's own model server against any.

Three embedded servers, each a process of its own with a user cache of 64
users, serve a MUSE ranker with random weights. Requests of random users come
one after the other. Each calls `rank_cached`; after a miss, it sends the
history (`prefetch`) and calls again. Ours sends a request to the server that
the ranking service chooses (`serving.ranking_service.targets`), the peer to one
server after the other, as a load balancer does. Both take turns with caches of
their own: two names of the same model.

Then one server stops, and another one starts in its place. Each case has a line
for the median and one for the 99th percentile; hit rates are facts. They count
from the first request after the change, when users have moved.

The answers agree when all are within 1e-5 of `rank` with the whole history.
"""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks import harness

USERS, QUICK_USERS = 120, 30
LENGTH, QUICK_LENGTH = 10_000, 1_000
REQUESTS, QUICK_REQUESTS = 600, 90
NUM_ITEMS, CANDIDATES, SERVERS = 100_000, 100, 3
TOLERANCE = 1e-5
MODELS = ("own", "any")


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
    from benchmarks.load import processes
    from serving.client import MuseClient, Timeouts

    length = QUICK_LENGTH if quick else LENGTH
    harness.say("sticky: exporting a model")
    muse = models.export_muse(folder, NUM_ITEMS, with_user_cache=True)
    paths = dict.fromkeys(MODELS, muse.parent)
    requests = [
        models.rank_request(NUM_ITEMS, CANDIDATES, length, seed=user)
        for user in range(QUICK_USERS if quick else USERS)
    ]
    timeouts = Timeouts(call=60, total=60)
    with contextlib.ExitStack() as running:
        servers: dict[str, _Server] = {}

        def start(name: str) -> contextlib.ExitStack:
            stack = running.enter_context(contextlib.ExitStack())
            server = stack.enter_context(
                processes.model_server(folder, paths, name=name)
            )
            servers[server.grpc] = {
                model: stack.enter_context(
                    MuseClient(server.grpc, model=model, timeouts=timeouts)
                )
                for model in MODELS
            }
            stack.callback(servers.pop, server.grpc)
            return stack

        last = [start(f"server-{number}") for number in range(SERVERS)][-1]
        (first, *_) = servers.values()
        right = [
            first["any"].predict("rank", request)["click_probability"]
            for request in requests
        ]
        bench = _Bench(report, servers, requests, right, quick)
        bench.measure("warming up")
        bench.measure(f"{SERVERS} servers")
        last.close()
        bench.measure(f"{SERVERS - 1} servers, one has stopped")
        start("new")
        bench.measure(f"{SERVERS} servers, one is new")


_Server = dict[str, Any]


class _Bench:
    """Sends the same requests both ways."""

    def __init__(
        self,
        report: Any,
        servers: dict[str, _Server],
        requests: list[dict[str, Any]],
        right: list[Any],
        quick: bool,
    ) -> None:
        import numpy as np

        self._report = report
        self._servers = servers
        self._requests = requests
        self._right = right
        self._number = QUICK_REQUESTS if quick else REQUESTS
        self._random = np.random.default_rng(0)

    def measure(self, case: str) -> None:
        """Measure and report one state of the servers."""
        import numpy as np

        harness.say(f"sticky: {case}")
        turns = itertools.cycle(list(self._servers))
        times: dict[str, list[float]] = {model: [] for model in MODELS}
        hits = dict.fromkeys(MODELS, 0)
        agree = True
        for user in self._users():
            for model in MODELS:
                address = self._own(user) if model == "own" else next(turns)
                client = self._servers[address][model]
                answer: dict[str, Any] = {}
                call = harness.timed(
                    lambda client=client, answer=answer, user=user: (
                        answer.update(self._ask(client, user))
                    )
                )
                times[model].append(call())
                hits[model] += answer["hit"]
                apart = np.abs(answer["scores"] - self._right[user]).max()
                agree = agree and float(apart) <= TOLERANCE
        for share in (50, 99):
            found = {
                k: float(np.percentile(v, share)) for k, v in times.items()
            }
            self._report.add(
                f"p{share}, {case}",
                found["own"],
                {"any server": found["any"]},
                agree=agree,
                agree_by=f"probabilities within {TOLERANCE} of rank",
            )
        self._report.fact(
            f"hit rate, {case}",
            requests=self._number,
            **{model: round(hits[model] / self._number, 3) for model in MODELS},
        )

    def _users(self) -> Iterator[int]:
        """Yield every user once in random order, and then random users."""
        count = len(self._requests)
        yield from self._random.permutation(count).tolist()
        yield from self._random.integers(
            0, count, self._number - count
        ).tolist()

    def _own(self, user: int) -> str:
        from serving.ranking_service.targets import by_user

        return by_user(user, list(self._servers))[0]

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
