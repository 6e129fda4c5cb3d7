"""Model servers, and the assignment of users to them.

Rendezvous hashing: for each user, the servers are ordered by a hash of both
names, and the first one is used. Prefetch and ranking thus use the same user
cache, and if a server fails, only its users move to other servers. A server
whose places are all taken is passed over.

`dns:HOST:PORT` stands for all addresses of a name, such as that of a headless
service of Kubernetes. They are looked up again and again: a new server takes
its share of the users from all others, and those of a server that is gone are
spread over the remaining ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from prometheus_client import Counter

from serving.addresses import join_address, split_address
from serving.client import (
    AsyncMuseClient,
    DeadlineError,
    Retry,
    UnavailableError,
)
from serving.client.declaration import Declaration
from serving.ranking_service.admission import Admission, Overloaded
from serving.ranking_service.config import DNS, ServiceConfig

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 5.0


class Target:
    """One model server, which is considered down before its first answer."""

    def __init__(
        self, address: str, config: ServiceConfig, declaration: Declaration
    ) -> None:
        self.address = address
        calls = self._calls = config.calls_per_target
        self._places = Admission(calls, sys.maxsize)
        self._prefetches = Admission(max(1, calls // 2), sys.maxsize)
        self.client = AsyncMuseClient(
            address,
            model=config.model,
            retry=Retry(attempts=1),
            tls=config.target_tls,
            schema=declaration,
        )
        self._pause = 0.0
        self._down_until = 0.0
        self._lost = True
        self.last_answer = 0.0

    @property
    def up(self) -> bool:
        """Whether the server is considered up."""
        return not self._lost and time.monotonic() >= self._down_until

    def full(self, prefetch: bool = False) -> bool:
        """Whether another call, or another prefetch, would have to wait."""
        if prefetch and self._prefetches.inside >= max(1, self._calls // 2):
            return True
        return self._places.inside >= self._calls

    @contextlib.asynccontextmanager
    async def place(
        self, until: float, prefetch: bool = False
    ) -> AsyncIterator[float]:
        """Holds one of the places for concurrent calls to the server.

        Prefetches get at most half of the places, because rankings need the
        others.
        """
        try:
            async with contextlib.AsyncExitStack() as stack:
                for places in (*[self._prefetches] * prefetch, self._places):
                    await stack.enter_async_context(
                        places.place(until - time.monotonic())
                    )
                left = until - time.monotonic()
                if left <= 0:
                    raise Overloaded("queue_timeout", 1)
                yield left
        except Overloaded as error:
            raise DeadlineError(
                "DEADLINE_EXCEEDED",
                f"no call to {self.address} was free (calls_per_target)",
            ) from error

    def lost(self) -> None:
        """Marks the server as down until it answers, after a failed poll."""
        self._lost = True
        self.failed()

    def failed(self) -> None:
        """Records a failed call; other servers are preferred for a while."""
        if not self._pause:
            _logger.warning("Model server %s does not answer", self.address)
        self._pause = min(
            _LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, 2 * self._pause)
        )
        self._down_until = time.monotonic() + self._pause

    def answered(self) -> None:
        """Records that the server answered."""
        if self._pause:
            _logger.warning("Model server %s answers again", self.address)
        self._lost = False
        self._pause = self._down_until = 0.0
        self.last_answer = time.monotonic()


class Targets:
    """All model servers."""

    def __init__(
        self, config: ServiceConfig, declaration: Declaration, moved: Counter
    ) -> None:
        self._config = config
        self._declaration = declaration
        self._moved = moved
        self._closing: dict[Target, asyncio.Task[None]] = {}
        # The latest addresses of each name.
        self._found: dict[str, list[str]] = {}
        self.all: list[Target] = []
        self._update()

    async def look_up(self) -> list[Target]:
        """Looks up the names, and returns the servers that are gone.

        If a name has no address, its latest addresses are kept: without an
        answer of DNS, the servers may be there.
        """
        loop = asyncio.get_running_loop()
        for name in self._config.targets:
            if not name.startswith(DNS):
                continue
            host, port = split_address(name.removeprefix(DNS))
            try:
                found = await loop.getaddrinfo(
                    host, port, type=socket.SOCK_STREAM
                )
            except OSError as error:
                _logger.warning("Looking up %s: %s", name, error)
                continue
            places = {place[:2] for *_, place in found}
            self._found[name] = [join_address(*p) for p in sorted(places)]
        gone = self._update()
        for target in gone:
            self._closing[target] = asyncio.create_task(self._close(target))
        return gone

    def order(self, user_id: int, prefetch: bool = False) -> list[Target]:
        """Returns a user's servers in order, beginning with their own.

        Those that are full come later, and those that are down at the end.
        """
        ranked = by_user(user_id, [target.address for target in self.all])

        def place(target: Target) -> tuple[bool, bool, int]:
            later = not target.up, target.full(prefetch)
            return *later, ranked.index(target.address)

        order = sorted(self.all, key=place)
        if prefetch and order and order[0].address != ranked[0]:
            self._moved.inc()
        return order

    async def call(
        self,
        order: Sequence[Target],
        call: Callable[[Target, float], Awaitable[_T]],
        until: float,
        prefetch: bool = False,
    ) -> tuple[Target, _T]:
        """Calls the servers in order until one answers."""
        for place, target in enumerate(order):
            try:
                async with target.place(until, prefetch) as seconds:
                    answer = await call(target, seconds)
            except UnavailableError:
                target.failed()
                if place + 1 == len(order):
                    raise
            else:
                target.answered()
                return target, answer
        raise UnavailableError("UNAVAILABLE", "no model server is known")

    async def close(self) -> None:
        """Closes the connections."""
        for task in self._closing.values():
            task.cancel()
        await asyncio.gather(
            *(target.client.close() for target in [*self.all, *self._closing])
        )

    def _update(self) -> list[Target]:
        """Adds and removes servers; returns the removed ones."""
        addresses = list(
            dict.fromkeys(
                address
                for name in self._config.targets
                for address in self._found.get(
                    name, [] if name.startswith(DNS) else [name]
                )
            )
        )
        known = {target.address: target for target in self.all}
        self.all = [
            known.pop(address)
            if address in known
            else Target(address, self._config, self._declaration)
            for address in addresses
        ]
        return list(known.values())

    async def _close(self, target: Target) -> None:
        """Closes the connections to a server after its last calls."""
        config = self._config
        longest = max(config.prefetch_timeout_ms, config.max_deadline_ms)
        await asyncio.sleep(longest / 1e3)
        del self._closing[target]
        await target.client.close()


def by_user(user_id: int, addresses: Sequence[str]) -> list[str]:
    """Returns the servers in the order of the user's preference."""

    def weight(address: str) -> bytes:
        text = f"{user_id}|{address}".encode()
        return hashlib.blake2b(text, digest_size=8).digest()

    return sorted(addresses, key=weight, reverse=True)
