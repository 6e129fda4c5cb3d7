"""Both servers and a store under mixed load for minutes: do they stay flat?

    python -m benchmarks.soak --minutes 10

The embedded server, the ranking service and a redis-server run as processes
(LMDB inside the service where there is no redis-server). At once:

- the ranking service is asked by gRPC and REST, with candidates and by way of
  retrieval, for users who do nothing and for users whose events are appended;
- the model server is asked for `rank`, and for `prefetch` and `rank_cached`;
- a new version of the ranking model comes every 20 s, in turn one of two
  models that answer differently, and the old one goes;
- callers leave in the middle of calls and connections; malformed and too large
  requests come by gRPC and REST.

Every score is compared with what one of the two models says when it is asked
with the history in the request (`load/truth.py`), within 1e-5. Each second
memory, file descriptors and threads of every process are read; when they count
as flat is written in `load/flat.py`. Under five minutes that says little.

Ends with code 1 if a process died or was not flat, an answer was wrong, a
call failed that should not, or nonsense was accepted.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import json
import pathlib
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import harness, models
from benchmarks.load import flat, rude
from benchmarks.load.processes import (
    Server,
    model_server,
    ranking_service,
    redis_server,
)
from benchmarks.load.truth import REFERENCES, Known, Truth
from benchmarks.load.workload import (
    LAYOUT,
    random_behaviors,
    random_user,
)
from benchmarks.load.zipf import Zipf
from serving.client import (
    AsyncMuseClient,
    AsyncRankingClient,
    CachedRankRequest,
    MuseClientError,
    OverloadedError,
    PrefetchRequest,
    RankingRequest,
    RankingResult,
    RankRequest,
    Retry,
)

ITEMS = 20_000
LIMIT = 2_000
CANDIDATES = 100
STILL, MOVING = 24, 12
LISTS = 4
SWAP_S = 20.0
REST_S = 60.0
"""Longest wait for an answer by REST."""


def main() -> None:
    """Run servers under load and faults, and print the memory they take."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument(
        "--samples", type=pathlib.Path, help="write all samples, JSON lines"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="muse-soak-") as name:
        with _site(pathlib.Path(name)) as site:
            found = asyncio.run(_soak(site, 60 * arguments.minutes))
    if arguments.samples:
        lines = (
            json.dumps({"process": name, **dataclasses.asdict(sample)})
            for name, samples in found.samples.items()
            for sample in samples
        )
        arguments.samples.write_text("\n".join(lines) + "\n")
    sys.exit(_verdict(found))


@dataclasses.dataclass(frozen=True)
class Site:
    """What runs.

    Attributes:
        model: the model server.
        service: the ranking service.
        processes: all processes.
        versions: folder of the versions of `muse`.
        exports: the two models that take turns.
        users: whose history is in the store.
    """

    model: Server
    service: Server
    processes: list[Server]
    versions: pathlib.Path
    exports: tuple[pathlib.Path, pathlib.Path]
    users: list[Known]


@dataclasses.dataclass
class Found:
    """What the soak found.

    Attributes:
        counts: what happened how often.
        problems: what must not happen, the first of each kind.
        samples: by process.
        dead: processes that ended.
    """

    counts: collections.Counter[str]
    problems: dict[str, str]
    samples: dict[str, list[flat.Sample]]
    dead: list[str]

    def problem(self, kind: str, text: str) -> None:
        """Note what must not happen."""
        self.counts[f"PROBLEM {kind}"] += 1
        self.problems.setdefault(kind, text)


@contextlib.contextmanager
def _site(folder: pathlib.Path) -> Iterator[Site]:
    """Export, fill the store and start everything."""
    harness.say("soak: exporting two models")
    exports = tuple(
        models.export_muse(folder / name, ITEMS, True, seed)
        for seed, name in enumerate("ab")
    )
    matching = models.export_matching(folder, ITEMS, CANDIDATES)
    versions = folder / "versions"
    versions.mkdir()
    (versions / "1").symlink_to(exports[0], target_is_directory=True)
    bases = {"muse": versions, "matching": matching.parent}
    for name, export in zip(REFERENCES, exports, strict=True):
        bases[name] = export.parent
    harness.say("soak: starting the servers")
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server(folder))
        store = f"unix://{folder}/redis.sock" if redis else f"lmdb:{folder}/db"
        users = _users(store)
        model = stack.enter_context(
            model_server(folder, bases, "--file_system_poll_wait_seconds=0.5")
        )
        service = stack.enter_context(
            ranking_service(
                folder, store=store, targets=[model.grpc], history_limit=LIMIT
            )
        )
        yield Site(
            model=model,
            service=service,
            processes=[s for s in (model, service, redis) if s is not None],
            versions=versions,
            exports=exports,  # type: ignore[arg-type]
            users=users,
        )


def _users(store: str) -> list[Known]:
    from serving.stores import UserRecord, open_store

    generator = np.random.default_rng(0)
    ids = models.item_ids(ITEMS)
    lengths = [100, 500, LIMIT - 5, LIMIT]
    users = [
        Known(
            user_id=user + 1,
            user=random_user(generator),
            item_ids=generator.choice(ids, lengths[user % 4]),
            behaviors=random_behaviors(generator, lengths[user % 4]),
            limit=LIMIT,
            still=user < STILL,
        )
        for user in range(STILL + MOVING)
    ]
    with open_store(store, LAYOUT, limit=LIMIT) as opened:
        opened.replace_many(
            [
                UserRecord(u.user_id, u.user, u.item_ids, u.behaviors)
                for u in users
            ]
        )
    return users


async def _soak(site: Site, seconds: float) -> Found:
    """Run everything at once for some seconds."""
    import aiohttp
    import grpc.aio

    found = Found(
        collections.Counter(),
        {},
        {server.name: [] for server in site.processes},
        [],
    )
    once = Retry(attempts=1)
    async with (
        AsyncMuseClient(site.model.grpc, retry=once) as model,
        AsyncRankingClient(site.service.grpc) as service,
        aiohttp.ClientSession() as session,
        grpc.aio.insecure_channel(site.model.grpc) as model_channel,
        grpc.aio.insecure_channel(site.service.grpc) as service_channel,
    ):
        asking = Asking(site, found, model, service, session)
        urls = (
            f"http://{site.service.rest}/v1/rank",
            f"http://{site.service.rest}/v1/events",
            f"http://{site.model.rest}/v1/models/muse:predict",
        )
        user = site.users[0]

        async def leave() -> None:
            call: Any
            if random.random() < 0.5:
                call = service.rank(RankingRequest(user.user_id))
            else:
                call = model.rank(user.request(asking.lists[0], LIMIT))
            found.counts[f"rude: {await rude.leave(call, 0.03)}"] += 1

        async def hang_up() -> None:
            address = random.choice(
                (
                    *(site.model.grpc, site.model.rest),
                    *(site.service.grpc, site.service.rest),
                )
            )
            found.counts[f"rude: {await rude.hang_up(address)}"] += 1

        async def nonsense() -> None:
            large = random.random() < 0.05
            said = [
                await rude.post_nonsense(
                    session, urls[:1] if large else urls, large
                ),
                await rude.send_nonsense(model_channel),
                await rude.send_nonsense(service_channel, (rude.RANK,)),
            ]
            for word in said:
                found.counts[f"rude: {word}"] += 1
                if word in ("HTTP 200", "HTTP 500"):
                    found.problem("nonsense accepted or not understood", word)

        ends = time.monotonic() + seconds
        moving = [user for user in site.users if not user.still]
        works: list[tuple[Callable[[], Awaitable[None]], float]] = [
            (asking.still, 0.02),
            (asking.still, 0.02),
            (asking.matched, 0.05),
            (asking.by_rest, 0.05),
            (asking.rank, 0.05),
            (asking.prefetch_and_rank, 0.05),
            (leave, 0.1),
            (hang_up, 0.1),
            (nonsense, 0.2),
            (asking.swap, SWAP_S),
        ]
        works += [
            (lambda part=part: asking.move(part), 0.05)  # type: ignore[misc]
            for part in (moving[::2], moving[1::2])
        ]
        await asyncio.gather(
            _watch(site, found, ends),
            *(_repeat(work, pause, ends, found) for work, pause in works),
        )
        await asking.truth.close()
    return found


async def _repeat(
    work: Callable[[], Awaitable[None]],
    pause: float,
    ends: float,
    found: Found,
) -> None:
    """Do one thing again and again."""
    while (left := ends - time.monotonic()) > 0:
        try:
            await work()
        except OverloadedError:
            found.counts["refused"] += 1
        except MuseClientError as error:
            found.problem(f"failed: {type(error).__name__}", str(error))
        except Exception as error:  # Every error is reported.
            found.problem(f"raised: {type(error).__name__}", repr(error))
        await asyncio.sleep(min(left, pause * random.uniform(0.5, 1.5)))


async def _watch(site: Site, found: Found, ends: float) -> None:
    """Take samples of the processes."""
    start = time.monotonic()
    told = start
    while (now := time.monotonic()) < ends:
        for server in site.processes:
            if server.process.poll() is not None:
                if server.name not in found.dead:
                    found.dead.append(server.name)
                continue
            found.samples[server.name].append(
                flat.take_sample(server.process.pid, now - start)
            )
        if now - told > 30:
            told = now
            sizes = ", ".join(
                f"{name} {samples[-1].rss_mib:.0f} MiB"
                for name, samples in found.samples.items()
            )
            harness.say(f"soak: {now - start:.0f} s, {sizes}")
        await asyncio.sleep(1)


class Asking:
    """Requests whose answers are checked.

    Args:
        site: what runs.
        found: where it is noted.
        model: asks the model server.
        service: asks the ranking service.
        session: asks by HTTP.

    Attributes:
        lists: candidates of the users who do nothing.
        truth: what is right.
    """

    def __init__(
        self,
        site: Site,
        found: Found,
        model: AsyncMuseClient,
        service: AsyncRankingClient,
        session: Any,
    ) -> None:
        self._site = site
        self._found = found
        self._model = model
        self._service = service
        self._session = session
        self._generator = np.random.default_rng(1)
        ids = models.item_ids(ITEMS)
        self._items = Zipf(self._generator.permutation(ids))
        self._still = [user for user in site.users if user.still]
        self._lost: set[int] = set()
        self._version = 1
        self.lists = [self._candidates() for _ in range(LISTS)]
        self.truth = Truth(site.model.grpc)

    async def still(self) -> None:
        """Ask the service for a user without new events; candidates given."""
        user, candidates = random.choice(self._still), self._list()
        result = await self._service.rank(
            RankingRequest(user.user_id, candidates, deadline_ms=2_000)
        )
        await self._check("service", user, candidates, result)

    async def matched(self) -> None:
        """Ask the service for a user without new events, with retrieval."""
        user = random.choice(self._still)
        result = await self._service.rank(
            RankingRequest(user.user_id, deadline_ms=2_000)
        )
        await self._check("matched", user, None, result)

    async def move(self, users: list[Known]) -> None:
        """Append events of a user, then ask the service."""
        user = random.choice(users)
        if user.user_id in self._lost:
            return
        count = random.randint(1, 3)
        items = self._items.draw(count, self._generator)
        behaviors = random_behaviors(self._generator, count)
        try:
            await self._service.append_events(user.user_id, items, behaviors)
        except MuseClientError:
            self._lost.add(user.user_id)  # They may be stored, or not.
            raise
        user.did(items, behaviors)
        candidates = self._candidates()
        result = await self._service.rank(
            RankingRequest(user.user_id, candidates, deadline_ms=2_000)
        )
        await self._check("moving", user, candidates, result)

    async def by_rest(self) -> None:
        """Ask the service by REST."""
        user, candidates = random.choice(self._still), self._list()
        body = {
            "user_id": user.user_id,
            "candidate_item_ids": candidates.tolist(),
            "deadline_ms": 2_000,
        }
        url = f"http://{self._site.service.rest}/v1/rank"
        async with self._session.post(url, json=body, timeout=REST_S) as answer:
            if answer.status == 503:
                self._found.counts["refused"] += 1
                return
            if answer.status != 200:
                text = await answer.text()
                self._found.problem(f"failed: HTTP {answer.status}", text)
                return
            said = await answer.json()
        result = RankingResult(
            candidate_item_ids=np.array(said["candidate_item_ids"], np.int64),
            click_probability=np.array(said["click_probability"], np.float32),
            path=said["path"],
            history_length=said["history_length"],
        )
        await self._check("REST", user, candidates, result)

    async def rank(self) -> None:
        """Ask the model server with the history in the request."""
        user, candidates = random.choice(self._still), self._list()
        request = user.request(candidates, LIMIT)
        answer = await self._model.rank(request)
        await self._score("rank", request, answer.click_probability)

    async def prefetch_and_rank(self) -> None:
        """Prefetch, then ask the model server to rank from the cache."""
        user, candidates = random.choice(self._still), self._list()
        request = user.request(candidates, LIMIT)
        await self._model.prefetch(
            PrefetchRequest(
                user.user_id,
                request.behavior_item_ids,
                request.user,
                request.behaviors,
            )
        )
        answer = await self._model.rank_cached(
            CachedRankRequest(user.user_id, candidates)
        )
        if not answer.cache_hit:
            self._found.counts["rank_cached: miss"] += 1
            return
        await self._score("rank_cached", request, answer.click_probability)

    async def swap(self) -> None:
        """Push a new version, and remove the old one's folder."""
        self._version += 1
        versions = self._site.versions
        export = self._site.exports[(self._version - 1) % 2]
        (versions / str(self._version)).symlink_to(
            export, target_is_directory=True
        )
        for _ in range(600):
            states = {v.version: v.state for v in await self._model.status()}
            if states.get(self._version) == "AVAILABLE":
                break
            await asyncio.sleep(0.1)
        else:
            self._found.problem("version did not come", str(states))
        self._found.counts["versions"] += 1
        harness.say(f"soak: version {self._version}")
        (versions / str(self._version - 1)).unlink()

    def _candidates(self) -> np.ndarray:
        return self._items.distinct(CANDIDATES, self._generator)

    def _list(self) -> np.ndarray:
        return random.choice(self.lists)

    async def _check(
        self,
        kind: str,
        user: Known,
        candidates: np.ndarray | None,
        result: RankingResult,
    ) -> None:
        self._found.counts[f"{kind}: {result.path}"] += 1
        if not await self.truth.right_result(user, candidates, result):
            self._found.problem(
                "wrong answer",
                f"{kind}, user {user.user_id} with {len(user.item_ids)} "
                f"events: {result}",
            )

    async def _score(
        self, kind: str, request: RankRequest, scores: np.ndarray
    ) -> None:
        self._found.counts[kind] += 1
        if not await self.truth.right(request, scores, keep=True):
            self._found.problem("wrong answer", f"{kind}, {request}")


def _verdict(found: Found) -> int:
    """Print what was found; return the exit code."""
    for name, count in sorted(found.counts.items()):
        print(f"{name}: {count:,}")
    rows = [("process", "what", "median", "peak", "growth", "allowed", "flat")]
    good = not found.dead and not found.problems
    for name, samples in found.samples.items():
        for what, growth in flat.judge(samples).items():
            good = good and growth.flat
            rows.append(
                (
                    name,
                    what,
                    f"{growth.median:,.1f}",
                    f"{growth.peak:,.1f}",
                    f"{growth.growth:+,.1f}",
                    f"{growth.allowed:,.1f}",
                    "yes" if growth.flat else "NO",
                )
            )
    harness.print_columns(rows)
    for kind, text in found.problems.items():
        print(f"PROBLEM {kind}: {text}")
    print(f"dead processes: {', '.join(found.dead) or 'none'}")
    print("verdict: " + ("good" if good else "NOT GOOD"))
    return 0 if good else 1


if __name__ == "__main__":
    main()
