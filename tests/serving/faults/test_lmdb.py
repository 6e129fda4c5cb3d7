"""The service on an LMDB store that is damaged, locked, moved or full."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from serving.client import CallError, DeadlineError, UnavailableError
from serving.client.ranking import RankingClient, RankingRequest
from serving.stores import open_store
from tests.serving.faults.conftest import ServiceProcess, wait_for
from tests.serving.faults.ranked_users import ask, fill

USERS = range(10301, 10321)
CORRUPT, APPENDED, *OTHERS = USERS
HOLD = """
import sys, lmdb
env = lmdb.open(sys.argv[1], max_dbs=4, map_size=1 << 40)
with env.begin(write=True):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lmdb")
    fill(f"lmdb:{folder}/store", USERS)
    return folder


@pytest.fixture(scope="module")
def lmdb_service(folder, fault_server) -> Iterator[ServiceProcess]:
    service = ServiceProcess(
        folder,
        store=f"lmdb:{folder}/store",
        targets=[fault_server.grpc],
        deadline_ms=5000,
        store_timeout_ms=300,
        store_threads=2,
        drain_seconds=1,
    )
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture
def client(lmdb_service, model_server) -> Iterator[RankingClient]:
    with RankingClient(lmdb_service.grpc) as client:
        yield client
    assert lmdb_service.process.poll() is None, "the service died"


def outcome(answer) -> str:
    return {s.name: s.outcome for s in answer.stages}["store_read"]


def test_garbage_is_no_history(client, folder):
    """The bytes of one user are changed by another process."""
    script = (
        "import sys, lmdb\n"
        "env = lmdb.open(sys.argv[1], max_dbs=4, map_size=1 << 40)\n"
        "db = env.open_db(b'events')\n"
        "key = (int(sys.argv[2]) + 2**63).to_bytes(8, 'big')\n"
        "with env.begin(write=True) as txn, txn.cursor(db) as cursor:\n"
        "    assert cursor.set_range(key)\n"
        "    cursor.put(cursor.key(), cursor.value()[::-1])\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, f"{folder}/store", str(CORRUPT)],
        check=True,
    )
    answer = ask(client, CORRUPT)
    assert (answer.path, outcome(answer)) == ("no_history", "error")
    assert ask(client, OTHERS[0]).path in ("cached", "full")


def test_a_full_disk_refuses_events_and_keeps_histories(
    client, folder, lmdb_service
):
    pid = lmdb_service.process.pid
    size = (folder / "store" / "data.mdb").stat().st_size
    old = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, old[1]))
    many = list(range(1, 60_000))
    try:
        with pytest.raises(UnavailableError, match="behavior store"):
            client.append_events(77, many)
        assert ask(client, OTHERS[1]).path in ("cached", "full")
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, old)
    assert ask(client, OTHERS[2]).path in ("cached", "full")
    assert client.append_events(77, many) == len(many)


def test_a_locked_store_delays_events_not_rankings(client, folder):
    """Another process holds the lock of writers."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, f"{folder}/store"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == b"locked\n"
        codes = []
        for _ in range(5):  # One more than threads and seats.
            with pytest.raises(CallError, match="behavior store") as error:
                client.append_events(APPENDED, [1])
            codes.append(type(error.value))
        assert codes[0] is DeadlineError
        assert codes[-1] is UnavailableError
        for user in OTHERS[:4]:
            answer = ask(client, user)
            assert answer.path in ("cached", "full")
            assert outcome(answer) == "ok"
    finally:
        holder.communicate(b"")
    wait_for(lambda: not refused(client))


def refused(client) -> bool:
    try:
        client.append_events(88, [1])
    except CallError:
        return True
    return False


def test_a_store_that_is_removed_and_comes_back(client, folder):
    """Neither are events lost nor old histories taken for new ones."""
    assert ask(client, OTHERS[5]).path in ("cached", "full")
    shutil.rmtree(folder / "store")
    answer = ask(client, OTHERS[6])
    assert (answer.path, outcome(answer)) == ("no_history", "error")
    with pytest.raises(UnavailableError):
        client.append_events(OTHERS[7], [1])
    assert not (folder / "store").exists()
    fill(f"lmdb:{folder}/new", OTHERS)
    with open_store(f"lmdb:{folder}/new") as store:
        assert len(list(store.user_ids())) == len(OTHERS)
    os.rename(folder / "new", folder / "store")
    wait_for(lambda: not refused(client))
    assert outcome(ask(client, CORRUPT)) == "miss"
    answer = ask(client, OTHERS[6])
    assert answer.path in ("cached", "full") and outcome(answer) == "ok"


def test_stopping_does_not_wait_for_a_locked_store(
    folder, model_server, tmp_path
):
    fill(f"lmdb:{tmp_path}/store", OTHERS[:1])
    service = ServiceProcess(
        tmp_path,
        store=f"lmdb:{tmp_path}/store",
        targets=[model_server.grpc],
        store_timeout_ms=200,
        drain_seconds=1,
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, f"{tmp_path}/store"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == b"locked\n"
        with RankingClient(service.grpc) as client:
            # Neither opening the store nor waiting for it holds anything up.
            with pytest.raises(DeadlineError, match="behavior store"):
                client.append_events(5, [1])
            assert client.rank(RankingRequest(5, [1])).path == "no_history"
        service.stop()
    finally:
        service.process.kill()
        service.process.wait()
        holder.communicate(b"")
    assert service.log()[-1]["message"].startswith("Stopped with calls")
