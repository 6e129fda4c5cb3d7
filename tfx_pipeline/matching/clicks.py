"""Clicks by item, and a sample of users with their histories."""

from __future__ import annotations

import dataclasses
import pathlib
import pickle
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from serving.files import appearing
from tfx_pipeline.transforms import arrow_batches

NONE = np.zeros(0, np.int64)

OTHERS, TUNED = 0, 1
"""Halves of the train users: on whose clicks popularity is counted while the
score is chosen on those of the others."""


@dataclasses.dataclass(frozen=True, eq=False)
class User:
    """A user of the sample.

    Attributes:
        hash: `mixed` of the id.
        first: number of the file, and of the request in it, of the history.
        history: int64 (L,), newest behaviors at ``first``, oldest first.
        clicked: int64 (n,), the items of all clicks.
    """

    hash: int
    first: tuple[int, int]
    history: npt.NDArray[np.int64]
    clicked: npt.NDArray[np.int64]

    def joined(self, other: User) -> User:
        """Returns the clicks of both, with the earlier history."""
        one, two = sorted((self, other), key=lambda user: user.first)
        clicked = np.concatenate([one.clicked, two.clicked])
        return dataclasses.replace(one, clicked=clicked)


@dataclasses.dataclass(frozen=True, eq=False)
class Clicks:
    """Clicks by item, and a sample of the users who clicked.

    Attributes:
        item_ids: int64 (I,), the clicked items, sorted.
        counts: int64 (I, 2), clicks on each by users of either half (see
            `half_of`).
        users: the sample by user id.
    """

    item_ids: npt.NDArray[np.int64] = dataclasses.field(
        default_factory=lambda: NONE
    )
    counts: npt.NDArray[np.int64] = dataclasses.field(
        default_factory=lambda: np.zeros((0, 2), np.int64)
    )
    users: dict[int, User] = dataclasses.field(default_factory=dict)

    def counts_of(
        self, item_ids: npt.NDArray[np.int64], halves: Iterable[int] = (0, 1)
    ) -> npt.NDArray[np.int64]:
        """Returns the clicks on sorted items by users of some halves."""
        counts = np.zeros(len(item_ids), np.int64)
        if len(item_ids):
            place = np.searchsorted(item_ids, self.item_ids)
            place = np.minimum(place, len(item_ids) - 1)
            known = item_ids[place] == self.item_ids
            found = self.counts[:, list(halves)].sum(axis=1)
            counts[place[known]] = found[known]
        return counts

    def sampled(
        self,
    ) -> tuple[
        list[npt.NDArray[np.int64]],
        npt.NDArray[np.int64],
        npt.NDArray[np.int64],
    ]:
        """Returns the histories and clicks on which recall is measured.

        Returns:
            The histories, in order of user id; and for each click its position
            among them, int64 (n,) ascending, and its item id, int64 (n,).
        """
        users = [self.users[user] for user in sorted(self.users)]
        clicks = [len(user.clicked) for user in users]
        return (
            [user.history for user in users],
            np.repeat(np.arange(len(users)), clicks),
            np.concatenate([NONE, *(user.clicked for user in users)]),
        )

    def joined(self, others: Iterable[Clicks], max_users: int) -> Clicks:
        """Returns the clicks of all, with the users of the smallest hashes."""
        parts = [self, *others]
        item_ids, place = np.unique(
            np.concatenate([part.item_ids for part in parts]),
            return_inverse=True,
        )
        counts = np.zeros((len(item_ids), 2), np.int64)
        np.add.at(
            counts,
            place,
            np.concatenate([part.counts for part in parts]),
        )
        users: dict[int, User] = {}
        for part in parts:
            for user, found in part.users.items():
                before = users.get(user)
                users[user] = before.joined(found) if before else found
        return Clicks(item_ids, counts, smallest(users, max_users))

    def write(self, path: str) -> None:
        """Writes a file for `read`, which appears when it is complete."""
        with appearing(pathlib.Path(path)) as file:
            file.write_bytes(pickle.dumps(self))

    @staticmethod
    def read(path: str) -> Clicks:
        """Reads what `write` wrote; the file must be one's own."""
        found: Clicks = pickle.loads(pathlib.Path(path).read_bytes())
        return found


def mixed(user_ids: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """Returns a hash of each user id, equal on every machine."""
    return arrow_batches.mix(np.asarray(user_ids, np.int64))


def half_of(hashes: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Returns the half (0 or 1) of users by their hashes of `mixed`."""
    return (np.asarray(hashes, np.uint64) & np.uint64(1)).astype(np.int64)


def smallest(users: dict[int, User], size: int) -> dict[int, User]:
    """Returns the users with the smallest hashes."""
    order = sorted(users, key=lambda user: users[user].hash)
    return {user: users[user] for user in order[:size]}
