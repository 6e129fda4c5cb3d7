"""Places and servers by user, each alone."""

from __future__ import annotations

import asyncio
import collections

import pytest

from serving.ranking_service.admission import Admission, Overloaded
from serving.ranking_service.targets import by_user


def test_places_are_given_in_order_and_never_lost() -> None:
    async def run() -> tuple[int, int, list[int], list[str]]:
        places = Admission(2, 3)
        inside = most = 0
        entered: list[int] = []
        refused: list[str] = []

        async def visit(number: int) -> None:
            nonlocal inside, most
            try:
                async with places.place(5):
                    entered.append(number)
                    inside += 1
                    most = max(most, inside)
                    await asyncio.sleep(0.01)
                    inside -= 1
            except Overloaded as error:
                refused.append(error.reason)

        tasks = [asyncio.create_task(visit(number)) for number in range(6)]
        await asyncio.sleep(0)
        tasks[3].cancel()  # It waits.
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await places.close(1)
        with pytest.raises(Overloaded, match="stopping"):
            async with places.place(1):
                pass
        return most, places.inside, entered, refused

    most, left, entered, refused = asyncio.run(run())
    assert (most, left) == (2, 0)
    assert entered == [0, 1, 2, 4]
    assert refused == ["queue_full"]


def test_users_share_servers_evenly_and_few_move() -> None:
    servers = [f"10.0.0.{n}:8500" for n in range(4)]
    first = {user: by_user(user, servers)[0] for user in range(4000)}
    counts = collections.Counter(first.values())
    assert min(counts.values()) > 800
    for user in range(4000):
        fewer = by_user(user, servers[:3])[0]
        if first[user] != servers[3]:
            assert fewer == first[user]
