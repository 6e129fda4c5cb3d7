"""Reads, appends and loads of the behavior stores.

    python -m benchmarks.stores

A redis-server is started on a socket and stopped again; without one only
LMDB is measured. Both lie in a temporary folder.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable

import numpy as np

from benchmarks.load.workload import LAYOUT
from serving.stores import BehaviorStore, UserRecord, open_store

EVENTS = 100_000
LOADED_USERS, LOADED_EVENTS = 5_000, 1_000


def milliseconds(call: Callable[[], object], times: int) -> str:
    """Returns median and 99th percentile."""
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        taken.append((time.perf_counter() - begin) * 1e3)
    taken.sort()
    worst = taken[min(len(taken) - 1, int(0.99 * len(taken)))]
    return f"p50 {statistics.median(taken):.2f} ms, p99 {worst:.2f} ms"


def measure(name: str, store: BehaviorStore, times: int) -> None:
    """Prints the figures of one store."""
    draw = np.random.default_rng(0)
    items, categories = draw.integers(1, 2**62, (2, EVENTS))
    store.replace_many([UserRecord(1, None, items, {"category": categories})])
    for count in (1_000, 10_000, EVENTS):
        figures = milliseconds(lambda n=count: store.read(1, n), times)
        print(f"{name}: read {count:,} events: {figures}")
    rows = draw.integers(0, 2**31, EVENTS).astype(np.int32)
    store.set_rows(1, rows, 1)
    figures = milliseconds(lambda: store.read(1), times)
    print(f"{name}: read {EVENTS:,} events and rows: {figures}")
    figures = milliseconds(lambda: store.append(1, 5, {"category": 6}), times)
    print(f"{name}: append 1 event to {EVENTS:,}: {figures}")
    figures = milliseconds(
        lambda: store.append(1, items[:100], {"category": categories[:100]}),
        times,
    )
    print(f"{name}: append 100 events to {EVENTS:,}: {figures}")
    before = store.stats()
    begin = time.perf_counter()
    for first in range(0, LOADED_USERS, 500):
        store.replace_many(
            [
                UserRecord(
                    2 + first + user,
                    dict.fromkeys(LAYOUT.user, 1),
                    items[user : user + LOADED_EVENTS],
                    {"category": categories[user : user + LOADED_EVENTS]},
                )
                for user in range(500)
            ]
        )
    seconds = time.perf_counter() - begin
    after = store.stats()
    total = LOADED_USERS * LOADED_EVENTS
    print(
        f"{name}: load {LOADED_USERS:,} users of {LOADED_EVENTS:,} events: "
        f"{LOADED_USERS / seconds:,.0f} users/s, "
        f"{total / seconds / 1e6:.1f} M events/s, "
        f"{(after.bytes - before.bytes) / total:.1f} bytes per event"
    )


def main() -> None:
    """Times reads, appends and loads of LMDB and Redis."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--times", type=int, default=200)
    times = parser.parse_args().times
    with tempfile.TemporaryDirectory(prefix="muse-stores-") as folder:
        root = pathlib.Path(folder)
        with open_store(f"lmdb:{root}/lmdb", LAYOUT) as store:
            measure("lmdb", store, times)
        program = shutil.which("redis-server")
        if program is None:
            print("redis: redis-server is not installed")
            return
        server = subprocess.Popen(
            [program, "--port", "0", "--unixsocket", f"{root}/r.sock"]
            + ["--save", "", "--dir", folder],
            stdout=subprocess.DEVNULL,
        )
        try:
            while not (root / "r.sock").exists():
                time.sleep(0.05)
            with open_store(
                f"unix://{root}/r.sock", LAYOUT, timeout=60
            ) as store:
                measure("redis", store, times)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
