"""A test for each part of urllib3 that is not public, by what it guards."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator

import pytest

from serving.client import MuseClient, Retry, Timeouts, UnavailableError
from serving.client import urllib3_internals as internals

ONCE = Retry(attempts=1)


class Status(http.server.BaseHTTPRequestHandler):
    """Says that there are no versions, and keeps the connection."""

    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.server.connections += 1

    def do_GET(self):
        body = b'{"model_version_status": []}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Status) as server:
        server.connections = 0
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(("idle", "connections"), [(60.0, 1), (0.0, 3)])
def test_is_connected_guards_connections_that_were_idle(
    server, monkeypatch, idle, connections
):
    monkeypatch.setattr(internals, "_IDLE_S", idle)
    with MuseClient(f"127.0.0.1:{server.server_port}", "rest") as client:
        assert [client.status() for _ in range(3)] == [[], [], []]
    assert server.connections == connections


def test_new_conn_guards_the_time_of_a_lookup(monkeypatch):
    over = threading.Event()
    asked = []

    def slow(host, *args, flags=0, **kwargs):
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        asked.append(host)
        over.wait(60)
        raise socket.gaierror("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    limits = Timeouts(connect=0.2)
    with MuseClient(
        "model.invalid:80", "rest", timeouts=limits, retry=ONCE
    ) as client:
        with pytest.raises(UnavailableError, match=r"connection within 0.2 s"):
            client.status()
    assert asked == ["model.invalid"] and not over.is_set()
    over.set()


def test_new_conn_guards_what_a_failed_lookup_says(monkeypatch):
    def fails(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    with MuseClient("model.invalid:80", "rest", retry=ONCE) as client:
        with pytest.raises(UnavailableError, match="service not known"):
            client.status()


@pytest.mark.parametrize("tls", [False, True])
def test_response_class_guards_the_time_of_an_answer(tls):
    kind = (
        internals.BoundedTlsConnection if tls else internals.BoundedConnection
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = kind("127.0.0.1", 1)
        connection.sock = ours
        internals.limits.ends = internals.time.monotonic() + 60
        connection.request("GET", "/", preload_content=False)
        theirs.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab")
        response = connection.getresponse()
        internals.limits.ends = 0.0
        with pytest.raises(Exception, match="timed out"):
            response.read()
