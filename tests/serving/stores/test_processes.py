"""One process writes, others read, and any of them is killed."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from serving.stores import open_store
from tests.serving.toy_store import LAYOUT

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parents[3]
SIZE = 700
READER = """
import sys, time
import numpy as np
from serving.stores import open_store

with open_store(sys.argv[1], timeout=20) as store:
    seen, last, end = 0, 0, time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end:
        found = store.read(1)
        if found is None:
            continue
        items, counts = np.unique(found.item_ids, return_counts=True)
        # Whole appends only, none left out; the oldest may be cut off.
        assert (counts[1:] == 700).all() and counts[0] <= 700, counts
        assert (np.diff(items) == 1).all(), items
        assert (np.diff(found.item_ids) >= 0).all()
        assert (found.item_ids == found.behaviors["category"]).all()
        assert items[-1] >= last
        seen, last = seen + 1, items[-1]
assert seen > 3, seen
print(seen, last)
"""


@pytest.fixture
def store_url(every_store_url: str) -> str:
    return every_store_url


def start(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_writer(url: str) -> subprocess.Popen[str]:
    return start("-m", "tests.serving.stores.writer", url, str(SIZE))


def test_readers_beside_a_writer(store_url):
    """Readers see whole appends only, while another process makes them."""
    writer = start_writer(store_url)
    assert writer.stdout is not None
    writer.stdout.readline()
    readers = [start("-c", READER, store_url, "1.5") for _ in range(3)]
    for reader in readers:
        output, error = reader.communicate(timeout=60)
        assert reader.returncode == 0, error
        assert int(output.split()[1]) > 1
    writer.kill()
    writer.communicate()


def test_a_killed_writer_leaves_the_last_good_state(store_url):
    """kill -9 at many moments: what was told done is there, and is whole.

    An append takes some milliseconds, so a kill at an arbitrary moment falls
    into one nearly always.
    """
    told = 0
    rng = np.random.default_rng(0)
    for _ in range(6):
        writer = start_writer(store_url)
        assert writer.stdout is not None
        assert int(writer.stdout.readline()) >= told
        time.sleep(rng.uniform(0.0, 0.05))
        writer.kill()
        output, _ = writer.communicate()
        lines = [line for line in output.split("\n")[:-1] if line]
        if lines:
            told = max(told, int(lines[-1]))
        with open_store(store_url, timeout=20) as store:
            found = store.read(1)
            assert found is not None
            items, counts = np.unique(found.item_ids, return_counts=True)
            assert items[-1] >= told
            # All of an append or nothing; the oldest may be cut off.
            assert (counts[1:] == SIZE).all() and counts[0] <= SIZE
            assert store.stats().events >= len(found)
            told = int(items[-1])


def test_killed_in_the_middle_of_a_transaction(tmp_path):
    """Killed after the writes and before the commit: nothing of it shows."""
    url = f"lmdb:{tmp_path}/store"
    with open_store(url, LAYOUT) as store:
        store.append(1, [1, 2, 3], {"category": [4, 5, 6]})
    code = """
import os, signal, sys
from serving.stores import open_store
from serving.stores.lmdb_records import LmdbRecords

put = LmdbRecords.put_header
def kill(*arguments):
    put(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

LmdbRecords.put_header = kill
open_store(sys.argv[1]).append(1, range(10, 5000))
"""
    writer = start("-c", code, url)
    writer.communicate(timeout=60)
    assert writer.returncode == -9
    with open_store(url) as store:
        assert store.read(1).item_ids.tolist() == [1, 2, 3]
        assert store.stats().events == 3
        # The dead writer's lock is free.
        store.append(1, 7)
        assert store.read(1).item_ids.tolist() == [1, 2, 3, 7]


def test_opening_twice_in_a_process_is_refused_clearly(tmp_path):
    from serving.stores import StoreError

    with open_store(f"lmdb:{tmp_path}", LAYOUT):
        with pytest.raises(StoreError, match="already open in this process"):
            open_store(f"lmdb:{tmp_path}")


FORKED = """
import os, sys, threading
from serving.stores import Layout, StoreError, open_store

store = open_store(sys.argv[1], Layout())
store.append(1, 11)
child = os.fork()
if not child:
    refused = 0
    for call in (
        lambda: store.append(1, 12),
        lambda: store.read(1),
        lambda: store.delete_many([1]),
    ):
        try:
            call()
        except StoreError as error:
            refused += "opened before a fork" in str(error)
    store.close()
    with open_store(sys.argv[1]) as own:
        own.append(1, 13)
    os._exit(0 if refused == 3 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
store.append(1, 14)
print(store.read(1).item_ids.tolist())
"""


def test_a_store_from_before_a_fork_is_refused(tmp_path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", FORKED, f"lmdb:{tmp_path}/store"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert found.stdout.strip() == "[11, 13, 14]", found.stderr
