"""Dead, slow and strange servers; retries, secrets and closing."""

from __future__ import annotations

import http.server
import socket
import threading
import time

import numpy as np
import pytest

import serving.client
from serving.client import (
    CallError,
    ClientClosedError,
    DeadlineError,
    InvalidArgumentError,
    MuseClient,
    MuseClientError,
    RequestError,
    ResponseError,
    Retry,
    Timeouts,
    Tls,
    UnavailableError,
)
from serving.client.errors import call_error

QUICK = Retry(attempts=3, first=0.01, longest=0.02)


class Scripted:
    """A transport that does what it is told, call by call."""

    def __init__(self, *script) -> None:
        self.script = list(script)
        self.seconds: list[float] = []

    def send(self, call, seconds):
        self.seconds.append(seconds)
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    def close(self) -> None:
        self.script = [ClientClosedError("closed")]


UNAVAILABLE = call_error("UNAVAILABLE", "down")


def test_unavailable_is_tried_again():
    transport = Scripted(UNAVAILABLE, UNAVAILABLE, {"y": 1})
    client = MuseClient("t", transport, retry=QUICK)
    assert client.predict("s", {}) == {"y": 1}
    assert len(transport.seconds) == 3


def test_attempts_end():
    transport = Scripted(*[UNAVAILABLE] * 5)
    with pytest.raises(UnavailableError):
        MuseClient("t", transport, retry=QUICK).predict("s", {})
    assert len(transport.seconds) == 3


@pytest.mark.parametrize(
    "code",
    ["DEADLINE_EXCEEDED", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "INTERNAL"],
)
def test_nothing_else_is_tried_again(code):
    transport = Scripted(call_error(code, "no"), {"y": 1})
    with pytest.raises(CallError, match=f"{code}: no"):
        MuseClient("t", transport, retry=QUICK).predict("s", {})
    assert len(transport.seconds) == 1


class Clock:
    """Time that passes by sleeping only."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_total_time_bounds_the_attempts(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("serving.client.attempts.time", clock)
    monkeypatch.setattr("serving.client.base.time", clock)
    transport = Scripted(*[UNAVAILABLE] * 100)
    client = MuseClient(
        "t",
        transport,
        retry=Retry(attempts=100, first=0.05, factor=1.0, longest=0.05),
        timeouts=Timeouts(call=10, total=0.3),
    )
    with pytest.raises(UnavailableError):
        client.predict("s", {})
    assert 1000.0 < clock.now < 1000.3
    # Pauses of 0.025 to 0.05 s: that many attempts fit, and no more.
    assert 6 <= len(transport.seconds) <= 12
    assert transport.seconds[0] == pytest.approx(0.3)
    assert transport.seconds == sorted(transport.seconds, reverse=True)


def test_pauses_grow_to_the_longest():
    retry = Retry(attempts=9, first=0.1, factor=2, longest=0.5)
    pauses = [retry.pause(n, 1.0) for n in range(1, 6)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])
    assert retry.pause(1, 0.0) == pytest.approx(0.05)


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_no_server(kind):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with MuseClient(f"127.0.0.1:{port}", kind, retry=QUICK) as client:
            with pytest.raises(UnavailableError):
                client.status()


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_a_server_that_never_answers(kind):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with MuseClient(
            f"127.0.0.1:{port}", kind, timeouts=Timeouts(call=0.3)
        ) as client:
            started = time.monotonic()
            with pytest.raises((DeadlineError, UnavailableError)):
                client.status()
            assert time.monotonic() - started < 10


@pytest.fixture
def strange():
    """An HTTP server that answers with a given status and body."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = self.server.answer
            self.server.seen.append(dict(self.headers))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.seen = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"a": NaN}'])
def test_strange_answers(strange, body):
    strange.answer = (200, body)
    with MuseClient(f"127.0.0.1:{strange.server_port}", "rest") as client:
        with pytest.raises(ResponseError):
            client.status()
        with pytest.raises(ResponseError):
            client.metadata()


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, "NOT_FOUND"), (504, "DEADLINE_EXCEEDED"), (418, "UNKNOWN")],
)
def test_http_errors(strange, status, code):
    strange.answer = (status, b"plain words")
    with MuseClient(f"127.0.0.1:{strange.server_port}", "rest") as client:
        with pytest.raises(CallError) as caught:
            client.status()
        assert caught.value.code == code
        assert "plain words" in caught.value.message


def test_metadata_travels_and_is_never_shown(strange):
    strange.answer = (200, b'{"model_version_status": []}')
    secret = "Bearer s3cret"
    with MuseClient(
        f"127.0.0.1:{strange.server_port}",
        "rest",
        metadata={"authorization": secret},
    ) as client:
        client.status()
        assert strange.seen[0]["authorization"] == secret
        assert "s3cret" not in repr(client)
        assert "'authorization': '***'" in repr(client)


def test_passwords_in_a_target_are_refused_unseen():
    with pytest.raises(RequestError) as caught:
        MuseClient("http://me:s3cret@host:1", "rest")
    assert "s3cret" not in str(caught.value)


def test_closing():
    client = MuseClient("127.0.0.1:1")
    client.close()
    client.close()
    assert "closed" in repr(client)
    with pytest.raises(ClientClosedError):
        client.status()
    with MuseClient("127.0.0.1:1", "rest") as other:
        pass
    with pytest.raises(ClientClosedError):
        other.status()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"target": "x:1", "transport": "carrier pigeon"}, "transport"),
        ({"target": "x:1", "model": ""}, "model"),
        ({"target": "x:1", "version": 1, "label": "a"}, "version"),
        ({"target": "http://x:1", "transport": "grpc"}, "target"),
        ({"target": "ftp://x", "transport": "rest"}, "target"),
        ({"target": "http://x", "transport": "rest", "tls": Tls()}, "target"),
    ],
)
def test_wrong_arguments_are_named(arguments, field):
    with pytest.raises(RequestError) as caught:
        MuseClient(**arguments)
    assert caught.value.field == field


def test_settings_are_checked():
    with pytest.raises(ValueError, match="`call` must be above 0"):
        Timeouts(call=0)
    with pytest.raises(ValueError, match="`attempts` must be at least 1"):
        Retry(attempts=0)
    with pytest.raises(ValueError, match="go together"):
        Tls(certificate_file="a.pem")
    assert "key.pem" not in repr(
        Tls(certificate_file="a.pem", key_file="key.pem")
    )


def test_errors_form_a_tree():
    assert issubclass(InvalidArgumentError, CallError)
    assert issubclass(CallError, MuseClientError)
    assert issubclass(RequestError, ValueError)
    assert call_error("SOMETHING", "x").code == "SOMETHING"


def test_an_answer_without_outputs_is_an_error():
    client = MuseClient("t", Scripted({"embedding": np.zeros((1, 2))}))
    with pytest.raises(ResponseError, match="found"):
        client.embed([1])


def test_public_names():
    assert sorted(serving.client.__all__) == serving.client.__all__
    for name in serving.client.__all__:
        assert getattr(serving.client, name)
