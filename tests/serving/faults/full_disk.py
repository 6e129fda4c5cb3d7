"""Loads a store while the disk is full, then again when there is room.

    python -m tests.serving.faults.full_disk FOLDER tmpfs|limit

`tmpfs` mounts a small file system of its own, which needs the right to do so
(`unshare --user --map-root-user --mount` gives it); `limit` lets no file of
the process grow beyond a size. Writes JSON about each try.
"""

from __future__ import annotations

import json
import pathlib
import resource
import subprocess
import sys

import numpy as np
import pyarrow as pa

from serving.stores import StoreError, load_users, open_store
from tests.serving import toy_store

USERS, LENGTH, BATCH = 12, 5_000, 3
SMALL, LARGE = 600_000, 16_000_000


COLUMNS = {
    name: name
    for name in (
        *("user_id", "behavior_item_ids", "behavior_category"),
        *(f"user_{name}" for name in toy_store.LAYOUT.user),
    )
}


def items(user: int) -> np.ndarray:
    return np.arange(LENGTH, dtype=np.int64) + user


def batches():
    for first in range(1, USERS, BATCH):
        users = range(first, first + BATCH)
        lists = pa.array([items(user) for user in users])
        yield pa.RecordBatch.from_pydict(
            {
                "user_id": pa.array(users, pa.int64()),
                **{
                    f"user_profile_{field}": pa.array([field] * BATCH)
                    for field in range(1, 6)
                },
                "behavior_item_ids": lists,
                "behavior_category": lists,
            }
        )


def make_room(folder: pathlib.Path, how: str, size: int) -> None:
    if how == "limit":
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        return
    change = "remount," if folder.is_mount() else ""
    options = f"{change}size={size}"
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
        check=True,
    )


def load(folder: pathlib.Path) -> dict:
    """One try of `muse store load`."""
    with open_store(f"lmdb:{folder}/store", toy_store.LAYOUT) as store:
        try:
            report = load_users(
                store,
                batches(),
                columns=COLUMNS,
                source="table",
                rejected=folder / "rejected",
            )
            error, resumed = "", report.resumed
        except StoreError as failed:
            error, resumed = str(failed), -1
        right = 0
        for user in range(1, USERS + 1):
            found = store.read(user)
            if found is not None:
                assert found.item_ids.tolist() == items(user).tolist()
                assert found.user == toy_store.user([1, 2, 3, 4, 5])
                right += 1
        assert store.stats().users == right
    return {"error": error, "resumed": resumed, "users": right}


def main(folder: pathlib.Path, how: str) -> None:
    make_room(folder, how, SMALL)
    tries = [load(folder), load(folder)]
    make_room(folder, how, LARGE)
    tries.append(load(folder))
    sys.stdout.write(json.dumps(tries))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2])
