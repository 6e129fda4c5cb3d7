"""How many connections a client opens."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from serving.client import (
    AsyncMuseClient,
    CallError,
    ClientClosedError,
    DeadlineError,
    MuseClient,
    MuseClientError,
    Retry,
    Timeouts,
    UnavailableError,
)
from serving.client.rest import CONNECTIONS
from tests.serving.relay import Relay

pytestmark = pytest.mark.once

ONCE = Retry(attempts=1)


class Counter:
    def __init__(self) -> None:
        self.connections = 0
        self.address = ""


@contextlib.contextmanager
def counting_proxy(target: str) -> Iterator[Counter]:
    """Passes bytes on to a server and counts the connections made."""
    host, _, port = target.removeprefix("http://").rpartition(":")
    counter = Counter()
    loop = asyncio.new_event_loop()

    async def pump(reader, writer):
        try:
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def accept(reader, writer):
        counter.connections += 1
        to_reader, to_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, to_writer), pump(to_reader, writer))

    server = loop.run_until_complete(asyncio.start_server(accept, "127.0.0.1"))
    counter.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield counter
    finally:

        async def stop():
            server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.tf
@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_calls_share_a_connection(muse, kind):
    with counting_proxy(getattr(muse, kind)) as proxy:
        with MuseClient(proxy.address, kind) as client:
            for _ in range(20):
                client.embed([1, 2])
        assert proxy.connections == 1


@pytest.mark.tf
def test_calls_at_once_share_a_connection(muse):
    async def ask(address: str):
        async with AsyncMuseClient(address) as client:
            for _ in range(3):
                await asyncio.gather(*[client.embed([1]) for _ in range(10)])

    with counting_proxy(muse.grpc) as proxy:
        asyncio.run(ask(proxy.address))
        assert proxy.connections == 1


@pytest.mark.tf
def test_threads_share_few_connections(muse):
    with counting_proxy(muse.rest) as proxy:
        with MuseClient(proxy.address, "rest") as client:
            for start in range(0, 250, 50):
                threads = [
                    threading.Thread(target=client.embed, args=([1, 2],))
                    for _ in range(start, start + 50)
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            assert 0 < proxy.connections <= CONNECTIONS
            client.embed([1])  # None was lost on the way.


@contextlib.contextmanager
def trickling(head: bytes) -> Iterator[str]:
    """A server that goes on with its answer, a byte at a time, for long."""
    stop = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(head)
            while not stop.wait(0.1):
                connection.sendall(b" ")

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                threading.Thread(target=answer, args=(connection,)).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            stop.set()
            server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long:",
        b"",
    ],
    ids=["body", "headers", "status"],
)
def test_the_deadline_holds_for_the_whole_answer(head):
    with trickling(head) as address:
        with MuseClient(address, "rest", retry=ONCE) as client:
            start = time.monotonic()
            with pytest.raises(DeadlineError):
                client.status(timeout=0.5)
            assert time.monotonic() - start < 1.5


METADATA = {
    "model_spec": {"name": "muse", "version": "1"},
    "metadata": {
        "signature_def": {"signature_def": {"s": {"inputs": {}, "outputs": {}}}}
    },
}


class Unread(http.server.BaseHTTPRequestHandler):
    """Answers a GET, and reads nothing of what is posted."""

    def do_GET(self):
        body = json.dumps(METADATA).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.server.stop.wait(30)

    def log_message(self, *args):
        pass


def test_the_deadline_holds_while_the_request_is_sent():
    inputs = {"x": np.full(10_000_000, 2**40)}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Unread) as server:
        server.stop = threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        # Encoding the request takes longer than the time to connect.
        limits = Timeouts(connect=0.2, call=4)
        with MuseClient(address, "rest", timeouts=limits, retry=ONCE) as client:
            with pytest.raises(DeadlineError, match="within 4 s"):
                client.predict("s", inputs)
        server.stop.set()
        server.shutdown()


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_closing_ends_the_calls_in_flight(kind):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        client = MuseClient(address, kind, retry=ONCE)
        failed: list[Exception] = []

        def ask():
            try:
                client.status(timeout=60)
            except Exception as error:
                failed.append(error)

        waiting = threading.Thread(target=ask)
        waiting.start()
        connection, _ = silent.accept()
        with connection:
            if kind == "rest":  # The call is under way.
                assert connection.recv(1)
            client.close()
            waiting.join(30)
        assert [type(error) for error in failed] == [ClientClosedError]


def test_a_server_that_takes_no_connection_is_unavailable():
    """Which is retried, unlike a deadline; what was not reached did nothing."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server.listen(0)
        for _ in range(2):  # Fill its queue.
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(server.getsockname())
        client = stack.enter_context(
            MuseClient(
                f"127.0.0.1:{server.getsockname()[1]}",
                "rest",
                timeouts=Timeouts(connect=0.2),
                retry=ONCE,
            )
        )
        with pytest.raises(UnavailableError, match=r"connection within 0.2 s"):
            client.status()
        with pytest.raises(DeadlineError, match=r"within 0\.(1|09\d*) s"):
            client.status(timeout=0.1)


@contextlib.contextmanager
def waiting_client(kind: str, address: str):
    """A blocking `status`, whatever the client."""
    if kind != "async":
        with MuseClient(address, kind, retry=ONCE) as client:
            yield lambda: client.status(timeout=0.5)[0].state
        return
    loop = asyncio.new_event_loop()
    client = AsyncMuseClient(address, retry=ONCE)
    try:
        yield (
            lambda: loop.run_until_complete(client.status(timeout=0.5))[0].state
        )
    finally:
        loop.run_until_complete(client.close())
        loop.close()


@pytest.mark.tf
@pytest.mark.parametrize("how", ["forget", "reset"])
@pytest.mark.parametrize("kind", ["grpc", "async", "rest"])
def test_a_lost_connection_is_opened_anew(muse, kind, how):
    target = (muse.rest if kind == "rest" else muse.grpc).removeprefix(
        "http://"
    )
    relay = Relay(target)
    with contextlib.closing(relay), waiting_client(kind, relay.address) as ask:
        assert ask() == "AVAILABLE"
        getattr(relay, how)()
        ends = time.monotonic() + 5
        while True:
            try:
                assert ask() == "AVAILABLE"
                break
            except CallError:
                assert time.monotonic() < ends
        # A server that answers keeps its connection.
        assert [ask() for _ in range(5)] == ["AVAILABLE"] * 5


@pytest.mark.tf
def test_calls_in_flight_outlive_the_old_connection(muse):
    relay = Relay(muse.grpc)
    with contextlib.closing(relay), MuseClient(relay.address) as client:
        client.embed([1])
        relay.hold()
        found = []
        slow = threading.Thread(
            target=lambda: found.append(client.embed([1, 2], timeout=30))
        )
        slow.start()
        for _ in range(3):  # They get another connection after a second.
            with pytest.raises(DeadlineError):
                client.status(timeout=0.5)
        relay.release()
        slow.join()
    assert np.asarray(found[0].found).all()


PROXIED = """
import sys
from serving.client import MuseClient, MuseClientError, Retry
for kind, target in zip(("grpc", "rest", "grpc", "grpc"), sys.argv[1:]):
    with MuseClient(target, kind, retry=Retry(attempts=1)) as client:
        try:
            print(client.status(timeout=5)[0].state)
        except MuseClientError as error:
            print(error)
"""


@pytest.mark.tf
@pytest.mark.parametrize("value", ["garbage", "https://proxy.invalid:1", "::"])
def test_a_proxy_that_grpc_does_not_know_is_no_line_of_its(
    value, monkeypatch, capfd
):
    for name in ("grpc_proxy", "https_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", value)
    limits = Timeouts(connect=2, call=2, total=2)
    with MuseClient("host.invalid:1", timeouts=limits, retry=ONCE) as client:
        with pytest.raises(MuseClientError):
            client.status()
    assert capfd.readouterr().err == ""


def test_a_proxy_is_not_for_this_machine(muse):
    """Others go through it unless `no_proxy` has them; the error says so."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = f"127.0.0.1:{closed.getsockname()[1]}"
    found = subprocess.run(
        [
            *(sys.executable, "-c", PROXIED, muse.grpc, muse.rest),
            *("model.invalid:8500", "other.invalid:8500"),
        ],
        env={
            **os.environ,
            "http_proxy": f"http://user:secret@{dead}",
            "no_proxy": "other.invalid",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    near, rest, far, excepted = found.stdout.splitlines()
    assert (near, rest) == ("AVAILABLE", "AVAILABLE")
    assert f"through the proxy of http_proxy, {dead}" in far
    assert "UNAVAILABLE" in excepted and "proxy" not in excepted
    assert "secret" not in found.stdout


@pytest.mark.parametrize("target", ["::1:8500", "nowhere", "h:99999"])
@pytest.mark.parametrize("client", [MuseClient, AsyncMuseClient])
def test_what_is_no_address_is_said(client, target):
    with pytest.raises(ValueError, match="IPv6 host in brackets"):
        client(target)
