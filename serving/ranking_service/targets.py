"""Model servers, and the assignment of users to them.

Rendezvous hashing: for each user, the servers are ordered by a hash of both
names, and the first one is used. Prefetch and ranking thus use the same user
cache, and if a server fails, only its users move to other servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from serving.client import (
    AsyncMuseClient,
    DeadlineError,
    Retry,
    UnavailableError,
)
from serving.client.declaration import Declaration
from serving.ranking_service.admission import Admission, Overloaded
from serving.ranking_service.config import ServiceConfig

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 5.0


class Target:
    """One model server."""

    def __init__(
        self, address: str, config: ServiceConfig, declaration: Declaration
    ) -> None:
        self.address = address
        calls = config.calls_per_target
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
        self._lost = False
        self.last_answer = 0.0

    @property
    def up(self) -> bool:
        """Whether the server is considered up."""
        return not self._lost and time.monotonic() >= self._down_until

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

    def __init__(self, config: ServiceConfig, declaration: Declaration) -> None:
        self.all = [
            Target(address, config, declaration) for address in config.targets
        ]

    def order(self, user_id: int) -> list[Target]:
        """Returns a user's servers in order, with those down at the end."""
        ranked = by_user(user_id, [target.address for target in self.all])

        def place(target: Target) -> tuple[bool, int]:
            return not target.up, ranked.index(target.address)

        return sorted(self.all, key=place)

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
        await asyncio.gather(*(target.client.close() for target in self.all))


def by_user(user_id: int, addresses: Sequence[str]) -> list[str]:
    """Returns the servers in the order of the user's preference."""

    def weight(address: str) -> bytes:
        text = f"{user_id}|{address}".encode()
        return hashlib.blake2b(text, digest_size=8).digest()

    return sorted(addresses, key=weight, reverse=True)
