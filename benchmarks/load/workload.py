"""Users with histories, and candidates for them: the same in every process."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from benchmarks import models
from benchmarks.load.zipf import Zipf
from serving.stores import Layout

CANDIDATE_LISTS = 32
LAYOUT = Layout(user=models.USER, behaviors=("category",))
"""What a store of the users keeps."""


@dataclasses.dataclass(frozen=True, eq=False)
class User:
    """One user.

    Attributes:
        user_id: the id.
        user: features of the user.
        item_ids: int64 (L,), oldest first.
        behaviors: features of the behaviors, int64 (L,) each.
    """

    user_id: int
    user: dict[str, int]
    item_ids: np.ndarray
    behaviors: dict[str, np.ndarray]


class Workload:
    """Users and their requests, determined by the seed.

    Active users and popular candidates follow Zipf's law. Histories are any
    items: the choices of a user over years are mostly rare.

    Args:
        num_items: items of the table, as `models.item_ids` numbers them.
        users: how many users have how long a history: `(length, count)`.
        candidates: items to rank in a request.
        seed: of everything.

    Attributes:
        users: all users, the most active first; lengths are mixed.
        candidates: int64 arrays (candidates,) of distinct ids.
    """

    def __init__(
        self,
        num_items: int,
        users: Sequence[tuple[int, int]],
        candidates: int,
        seed: int = 0,
    ) -> None:
        generator = np.random.default_rng(seed)
        ids = models.item_ids(num_items)
        popular = Zipf(generator.permutation(ids))
        lengths = np.repeat(*np.array(list(users), np.int64).T)
        generator.shuffle(lengths)
        self.users = [
            _user(1 + place, int(length), ids, generator)
            for place, length in enumerate(lengths)
        ]
        self.candidates = [
            popular.distinct(candidates, generator)
            for _ in range(CANDIDATE_LISTS)
        ]
        self._active = Zipf(np.arange(len(self.users)))
        self.restart()

    def restart(self, seed: int = 0) -> None:
        """Let the same users ask again in the same order.

        Args:
            seed: another one for another order.
        """
        self._generator = np.random.default_rng(seed)

    def next(self) -> tuple[User, np.ndarray]:
        """Draw the next user and candidates."""
        place = int(self._active.draw(1, self._generator)[0])
        chosen = int(self._generator.integers(len(self.candidates)))
        return self.users[place], self.candidates[chosen]


def _user(
    user_id: int, length: int, ids: np.ndarray, generator: np.random.Generator
) -> User:
    return User(
        user_id=user_id,
        user=random_user(generator),
        item_ids=generator.choice(ids, length),
        behaviors=random_behaviors(generator, length),
    )


def random_user(generator: np.random.Generator) -> dict[str, int]:
    """Draw the features of a user."""
    values = generator.integers(1, models.PROFILES + 1, len(LAYOUT.user))
    return dict(zip(LAYOUT.user, values.tolist(), strict=True))


def random_behaviors(
    generator: np.random.Generator, length: int
) -> dict[str, np.ndarray]:
    """Draw the features of behaviors, int64 (length,) each."""
    return {"category": generator.integers(1, models.CATEGORIES + 1, length)}
