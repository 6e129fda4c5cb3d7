"""Fresh items in a running server: at once, together, and after a swap."""

import itertools
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from muse_tools.cli.commands import app as muse
from serving.client import (
    FreshItems,
    InvalidArgumentError,
    Limits,
    MuseClient,
    RankRequest,
    Timeouts,
)
from serving.local_server import local_server
from serving.model_server import ServerConfig, running
from tests.serving.export.world import DIM, MAX_HISTORY, SPARE_ROWS, World

pytest.importorskip("tensorflow")

# Tests share a server, and so its slots: each has ids of its own.
_FIRST_IDS = itertools.count(10**10, 100)
REPLACED, ALIKE, WATCHED = 2 * 10**10, 3 * 10**10, 4 * 10**10


@pytest.fixture(params=["grpc", "rest"])
def client(request: pytest.FixtureRequest, server: Any) -> Iterator[MuseClient]:
    rest = request.param == "rest"
    target = server.rest_url if rest else server.grpc_target
    with MuseClient(target, request.param, limits=Limits(items=3)) as opened:
        yield opened


def request_of(world: World, candidates: list[int]) -> RankRequest:
    """Return a request whose history has vectors."""
    return RankRequest(
        user_id=1,
        candidate_item_ids=candidates,
        behavior_item_ids=world.item_table.item_ids[30 : 30 + MAX_HISTORY],
        behaviors={"category": [11] * MAX_HISTORY},
    )


def random_vectors(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, DIM)).astype(np.float32)


def wait_for(condition: Callable[[], Any], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def test_an_answered_upsert_is_ranked_from_then_on(
    world: World, client: MuseClient
) -> None:
    """By both protocols, in several calls; the answer is when it is seen."""
    first = next(_FIRST_IDS)
    ids = list(range(first, first + 7))
    vectors = random_vectors(first % 1000, 7)
    assert not client.embed(ids).found.any()
    hidden = client.explain(request_of(world, ids))
    assert not hidden.similarities.any()
    features = {"category": [11] * 7, "city": [21] * 7}
    result = client.upsert_items(ids, vectors, features)
    assert result.stored.all() and len(np.unique(result.row)) == 7
    assert result.capacity == SPARE_ROWS and result.used >= 7
    assert client.embed(ids).found.all()
    seen = client.explain(request_of(world, ids))
    assert seen.similarities.any(axis=1).all()
    assert np.std(seen.click_probability) > 0
    ranked = client.rank(request_of(world, ids)).click_probability
    np.testing.assert_allclose(ranked, seen.click_probability, atol=1e-6)
    again = client.upsert_items(ids, vectors, features)
    assert not again.stored.any() and again.used == result.used
    np.testing.assert_array_equal(again.row, result.row)


def test_the_server_says_what_is_wrong(client: MuseClient) -> None:
    with pytest.raises(InvalidArgumentError, match=rf"shape \[N, {DIM}\]"):
        client.upsert_items([5], [[1.0] * (DIM - 1)])
    count = SPARE_ROWS + 1
    ids = np.arange(5 * 10**10, 5 * 10**10 + count)
    zeros = np.zeros(count, np.int64)
    with pytest.raises(InvalidArgumentError, match="no room"):
        client.predict(
            "upsert_items",
            {
                "item_ids": ids,
                "embedding": np.ones((count, DIM), np.float32),
                "item_category": zeros,
                "item_city": zeros,
                "item_province": zeros,
            },
        )


def test_no_ranking_sees_half_an_item(world: World, server: Any) -> None:
    """An item is replaced again and again while it is ranked.

    Its score depends on vector and category. The scores of the whole items
    are known from ids that never change; those of the mixtures are others.
    """
    vectors = random_vectors(1, 2)
    whole = [(0, 11, 21), (1, -12, 22)]
    mixed = [(0, -12, 22), (1, 11, 21), (0, 11, 22), (1, -12, 21)]
    with MuseClient(server.grpc_target) as client:
        parts = np.array(whole + mixed)
        ids = ALIKE + np.arange(len(parts))
        client.upsert_items(
            ids,
            vectors[parts[:, 0]],
            {"category": parts[:, 1], "city": parts[:, 2]},
        )
        scores = client.rank(request_of(world, [*ids])).click_probability
        allowed, impossible = scores[:2], scores[2:]
        assert np.abs(impossible[:, None] - allowed).min() > 1e-4
        assert np.abs(allowed[0] - allowed[1]) > 1e-4
        client.upsert_items(
            [REPLACED], vectors[:1], {"category": [11], "city": [21]}
        )

    writes, errors, reads = 60, [], []
    done = threading.Event()

    def write(first: int) -> None:
        try:
            with MuseClient(server.grpc_target) as client:
                for turn in range(first, first + writes):
                    vector, category, city = whole[turn % 2]
                    client.upsert_items(
                        [REPLACED],
                        vectors[[vector]],
                        {"category": [category], "city": [city]},
                    )
        except Exception as error:
            errors.append(error)
        finally:
            done.set()

    def read() -> None:
        try:
            with MuseClient(server.grpc_target) as client:
                request = request_of(world, [REPLACED] * 40)
                while not done.is_set():
                    reads.append(client.rank(request).click_probability)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    threads += [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    seen = np.array(reads)
    near = np.abs(seen[:, :, None] - allowed) < 1e-6
    assert near.any(axis=2).all()
    # One state per request, and both states were met.
    assert (near.all(axis=1).any(axis=1)).all()
    assert near[:, 0].any(axis=0).all()


def test_tickets_are_given_out_once(server: Any) -> None:
    """Calls at the same time never share a row."""
    rows: list[int] = []

    def write(first: int) -> None:
        with MuseClient(server.grpc_target) as client:
            for call in range(10):
                ids = first + 10 * call + np.arange(1 + call % 4)
                result = client.upsert_items(ids, random_vectors(1, len(ids)))
                rows.extend(result.row.tolist())

    threads = [
        threading.Thread(target=write, args=(6 * 10**10 + 1000 * n,))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rows) == 8 * sum(1 + call % 4 for call in range(10))
    assert len(set(rows)) == len(rows)


def write_items(file: Path, ids: list[int], seed: int = 1) -> None:
    """Write a file of items at once."""
    vectors = random_vectors(seed, len(ids))
    table = pa.table(
        {
            "item_id": pa.array(ids, pa.int64()),
            "embedding": pa.array(vectors.tolist(), pa.list_(pa.float32())),
            "category_id": pa.array([11] * len(ids), pa.int64()),
        }
    )
    temporary = file.with_suffix(".tmp")
    pq.write_table(table, temporary)
    temporary.replace(file)


@pytest.mark.once
def test_followed_items_are_seen_soon_and_survive_a_swap(
    world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "muse"
    shutil.copytree(world.export.path, base / "1")
    file = tmp_path / "fresh.parquet"
    config = ServerConfig(
        model_base_path=str(base),
        port=0,
        rest_api_port=-1,
        file_system_poll_wait_seconds=0.05,
        enable_model_warmup=False,  # It takes most of the time of a load.
    )
    reports: list[Any] = []
    errors: list[Exception] = []
    stop = threading.Event()

    def follow() -> None:
        with MuseClient(app.grpc_target, timeouts=patient) as client:
            reports.extend(
                FreshItems(file).follow(
                    client, poll=0.05, stop=stop, on_error=errors.append
                )
            )

    # Each version's first call of a signature waits for its graph.
    patient = Timeouts(call=90, total=90)
    with (
        running(config) as app,
        MuseClient(app.grpc_target, timeouts=patient) as client,
    ):
        thread = threading.Thread(target=follow)
        thread.start()
        try:
            wait_for(lambda: errors)  # There is no file yet.
            assert isinstance(errors[0], FileNotFoundError)
            ids = [WATCHED, WATCHED + 1]
            write_items(file, ids)
            wait_for(lambda: client.embed(ids).found.all())
            ids.append(WATCHED + 2)
            write_items(file, ids)
            wait_for(lambda: client.embed(ids).found.all())
            before = client.rank(request_of(world, ids)).click_probability
            shutil.copytree(world.export.path, tmp_path / "next")
            (tmp_path / "next").rename(base / "2")
            wait_for(lambda: client.metadata().version == 2)
            wait_for(lambda: client.embed(ids).found.all())
            after = client.rank(request_of(world, ids)).click_probability
            np.testing.assert_allclose(after, before, atol=1e-6)
        finally:
            stop.set()
            thread.join()
    stored = [(report.version, report.stored) for report in reports]
    assert [version for version, _ in stored][-1] == 2
    assert {(1, 2), (1, 1)} <= set(stored)
    # Each version stores each item once. If the swap comes first, the item that
    # is sent again to see whether the server still has it is in no report. A
    # look that the swap falls into counts for the version it began with.
    assert 2 * len(ids) - sum(count for _, count in stored) in (0, 1)
    # TensorFlow estimates no costs, of which it would say that it cannot.
    assert "PredictCost" not in capfd.readouterr().err


@pytest.mark.once
def test_a_restarted_server_gets_back_what_is_not_in_its_export(
    world: World, tmp_path: Path
) -> None:
    """Another process, with the next export under the same version.

    The file's first item is in both exports, and all are there already.
    """
    exported, fresh = int(world.item_table.item_ids[40]), 8 * 10**10
    file = tmp_path / "fresh.parquet"
    patient = Timeouts(call=90, total=90)
    following = shutil.copytree(world.export.path, tmp_path / "next")
    # A warmup takes most of the time of a load.
    flags = ["--enable_model_warmup=false"]
    stop = threading.Event()
    reports: list[Any] = []

    def follow(target: str) -> None:
        with MuseClient(target, timeouts=patient) as client:
            reports.extend(
                FreshItems(file).follow(client, poll=0.05, stop=stop)
            )

    def load_id(client: MuseClient) -> int:
        return client.upsert_items([fresh + 1], random_vectors(2, 1)).load_id

    with (
        local_server(world.export.path, flags=flags) as address,
        MuseClient(address.grpc, timeouts=patient) as client,
    ):
        row = int(world.item_table.rows(np.array([exported]))[0])
        known = client.embed([exported]).embedding
        vectors = np.concatenate([known, random_vectors(1, 1)])
        columns = {"item_id": [exported, fresh], "embedding": [*vectors]} | {
            f"{name}_id": [int(values[row]), 11]
            for name, values in world.item_table.features.items()
        }
        pq.write_table(pa.table(columns), file)
        assert FreshItems(file).push(client).stored == 1
        first = load_id(client)
        thread = threading.Thread(target=follow, args=(address.grpc,))
        thread.start()
        wait_for(lambda: reports)
    flags.append(f"--port={address.grpc.rpartition(':')[2]}")
    try:
        with (
            local_server(following, flags=flags) as again,
            MuseClient(again.grpc, timeouts=patient) as client,
        ):
            assert again.grpc == address.grpc
            wait_for(lambda: len(reports) > 1)
            assert client.embed([exported, fresh]).found.all()
            assert load_id(client) != first
    finally:
        stop.set()
        thread.join()
    assert [report.stored for report in reports] == [0, 1]


def test_push_command(world: World, server: Any, tmp_path: Path) -> None:
    file = tmp_path / "fresh.parquet"
    write_items(file, [7 * 10**10, 0, 7 * 10**10 + 1, 7 * 10**10])
    run = CliRunner().invoke
    arguments = ["items", "push", str(file), "--target", server.grpc_target]
    first = run(muse, arguments)
    assert first.exit_code == 0, first.output
    assert "version 1: 2 items, 2 stored, 0 there before" in first.output
    assert "1 rows superseded" in first.output
    assert "1 rejected (item_id is 0, which means padding)" in first.output
    rejected = pq.read_table(tmp_path / "fresh.rejected.parquet").to_pydict()
    assert rejected["item_id"] == [0] and "padding" in rejected["reason"][0]
    second = run(muse, [*arguments, "--json"])
    assert '"stored": 0' in second.output
    missing = run(muse, [*arguments[:2], "nosuch", *arguments[3:]])
    assert missing.exit_code == 1
    assert "nosuch: there is no such file; expected Parquet" in missing.stderr
    unserved = run(muse, [*arguments[:3], "--target", "127.0.0.1:1"])
    assert unserved.exit_code == 1 and "no server answers" in unserved.stderr
