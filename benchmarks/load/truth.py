"""Users whose right scores are known, whatever happens to the servers.

The two models that take turns as versions of `muse` are served under names of
their own as well. They rank with the history in the request and see nothing of
swaps, caches and stores: what they say is right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from serving.client import AsyncMuseClient, RankingResult, RankRequest

TOLERANCE = 1e-5
REFERENCES = ("reference_a", "reference_b")


@dataclasses.dataclass(eq=False)
class Known:
    """A user and everything that the user ever did.

    Attributes:
        user_id: the id.
        user: features of the user.
        item_ids: int64 (N,), oldest first.
        behaviors: features of the behaviors, int64 (N,) each.
        limit: newest behaviors that the store keeps.
        still: whether nothing is ever added, so that answers can be kept.
    """

    user_id: int
    user: dict[str, int]
    item_ids: np.ndarray
    behaviors: dict[str, np.ndarray]
    limit: int
    still: bool = True

    def did(self, items: np.ndarray, behaviors: dict[str, np.ndarray]) -> None:
        """Note further behaviors."""
        self.item_ids = np.concatenate([self.item_ids, items])
        self.behaviors = {
            name: np.concatenate([known, behaviors[name]])
            for name, known in self.behaviors.items()
        }

    def request(
        self,
        candidates: np.ndarray,
        length: int,
        missing: int = 0,
        with_user: bool = True,
    ) -> RankRequest:
        """Return a request with `length` behaviors.

        Args:
            candidates: int64 (C,).
            length: how many behaviors.
            missing: newest behaviors that are left out before.
            with_user: whether the features of the user are known.
        """
        stop = len(self.item_ids) - missing
        part = slice(max(0, stop - length), stop)
        return RankRequest(
            user_id=self.user_id,
            user=self.user if with_user else {},
            behavior_item_ids=self.item_ids[part],
            behaviors={
                name: values[part] for name, values in self.behaviors.items()
            },
            candidate_item_ids=candidates,
        )


class Truth:
    """Says whether scores are right.

    Args:
        target: `host:port` of the model server.
        names: of the models.
    """

    def __init__(self, target: str, names: Sequence[str] = REFERENCES) -> None:
        self._clients = [AsyncMuseClient(target, model=name) for name in names]
        self._kept: dict[tuple[int, bool, bytes, int], list[np.ndarray]] = {}

    async def scores(self, request: RankRequest) -> list[np.ndarray]:
        """Return what each version must answer."""
        return [
            (await client.rank(request)).click_probability
            for client in self._clients
        ]

    async def right(
        self, request: RankRequest, found: np.ndarray, keep: bool = False
    ) -> bool:
        """Return whether one version answers that.

        Args:
            request: the whole request.
            found: float32 (C,).
            keep: whether it is asked again and again.
        """
        key = (
            request.user_id,
            bool(request.user),
            np.asarray(request.candidate_item_ids).tobytes(),
            len(request.behavior_item_ids),
        )
        expected = self._kept.get(key) if keep else None
        if expected is None:
            expected = await self.scores(request)
        if keep:
            self._kept[key] = expected
        return any(
            found.shape == scores.shape
            and float(np.abs(found - scores).max()) <= TOLERANCE
            for scores in expected
        )

    async def right_result(
        self, user: Known, asked: np.ndarray | None, result: RankingResult
    ) -> bool:
        """Return whether an answer of the ranking service is right.

        Args:
            user: who asked.
            asked: the candidates, None where retrieval was to find them.
            result: the answer.
        """
        ids = result.candidate_item_ids
        if asked is not None and not np.array_equal(ids, asked):
            return False
        if result.path == "unranked":
            return len(result.click_probability) == 0
        found, keep = result.click_probability, user.still and asked is not None
        if not len(ids) or found.shape != ids.shape:
            return False
        if result.path == "no_history":
            return any(
                [
                    await self.right(
                        user.request(ids, 0, 0, known), found, keep
                    )
                    for known in (True, False)
                ]
            )
        length = result.history_length
        if result.path == "cached" and length < 0:
            length = user.limit  # Of a prefetch that was not the service's.
        # The history as it is; from the cache also as it was a little before.
        least = min(len(user.item_ids), user.limit)
        if result.path == "full" and length != least:
            return False
        moved = result.path == "cached" and not user.still
        for missing in range(4 if moved else 1):
            request = user.request(ids, length, missing)
            if await self.right(request, found, keep):
                return True
        return False

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            await client.close()
