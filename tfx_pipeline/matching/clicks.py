"""Reads histories and clicks from request-grouped Examples."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfx_pipeline import features
from tfx_pipeline.training import input_fn
from tfx_pipeline.transforms import arrow_batches

_SPEC = {
    name: tf.io.VarLenFeature(tf.int64)
    for name in (
        features.USER_ID,
        features.BEHAVIOR_ITEM_IDS,
        features.CANDIDATE_ITEM_IDS,
        features.CLICKS,
    )
}
_BATCH = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Clicks:
    """Clicks of users, and the histories of a sample of these users.

    Attributes:
        user_ids: int64 (C,), the user of each click.
        item_ids: int64 (C,), the clicked item.
        histories: newest behaviors int64 (L,), oldest first, by user id; for a
            sample of the users with clicks.
    """

    user_ids: npt.NDArray[np.int64]
    item_ids: npt.NDArray[np.int64]
    histories: dict[int, npt.NDArray[np.int64]]

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
        users = np.array(sorted(self.histories), np.int64)
        place = np.searchsorted(users, self.user_ids)
        place = np.minimum(place, max(len(users) - 1, 0))
        chosen = np.flatnonzero(
            users[place] == self.user_ids if len(users) else []
        )
        order = chosen[np.argsort(place[chosen], kind="stable")]
        histories = [self.histories[int(user)] for user in users]
        return histories, place[order].astype(np.int64), self.item_ids[order]


def mixed(user_ids: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """Returns a hash of each user id, equal on every machine."""
    return arrow_batches.mix(np.asarray(user_ids, np.int64))


def read_clicks(
    file_pattern: str,
    max_users: int,
    max_behaviors: int,
    part: int | None = None,
) -> Clicks:
    """Reads all clicks of a split, and the histories of a sample of users.

    The sample is the users with the smallest hashes, of only one half of the
    users if ``part`` is 0 or 1. If a user has several requests, the history of
    the first one is used.
    """
    users: list[np.ndarray] = []
    items: list[np.ndarray] = []
    sample: dict[int, tuple[int, np.ndarray]] = {}
    limit = 1 << 64
    for batch in input_fn.request_dataset([file_pattern], _SPEC, _BATCH):
        arrays = {name: values.numpy() for name, values in batch.items()}
        user_ids = arrays[features.USER_ID][:, 0]
        clicked = arrays[features.CLICKS] == 1
        rows, columns = np.nonzero(clicked)
        users.append(user_ids[rows])
        items.append(arrays[features.CANDIDATE_ITEM_IDS][rows, columns])
        hashes = mixed(user_ids)
        for row in np.flatnonzero(clicked.any(axis=1)):
            user, value = int(user_ids[row]), int(hashes[row])
            if value >= limit or user in sample:
                continue
            if part is not None and half_of(value) != part:
                continue
            history = arrays[features.BEHAVIOR_ITEM_IDS][row]
            newest = history[history != 0][-max_behaviors:]
            sample[user] = value, newest.copy()
        if len(sample) > 2 * max_users:
            sample, limit = _smallest(sample, max_users)
    sample, _ = _smallest(sample, max_users)
    return Clicks(
        user_ids=np.concatenate(users) if users else np.zeros(0, np.int64),
        item_ids=np.concatenate(items) if items else np.zeros(0, np.int64),
        histories={user: history for user, (_, history) in sample.items()},
    )


def half_of(hashes: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """Returns the half (0 or 1) of users by their hashes of `mixed`."""
    return np.asarray(hashes, np.uint64) & np.uint64(1)


def _smallest(
    sample: dict[int, tuple[int, np.ndarray]], size: int
) -> tuple[dict[int, tuple[int, np.ndarray]], int]:
    """Returns ``size`` users with the smallest hashes, and the next hash."""
    order = sorted(sample, key=lambda user: sample[user][0])
    kept = {user: sample[user] for user in order[:size]}
    limit = sample[order[size]][0] if len(order) > size else 1 << 64
    return kept, limit
