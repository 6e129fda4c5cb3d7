"""Startup of both servers: files, encryption, ports and signals."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import pathlib
import signal
import socket
import ssl
import tempfile
from typing import Any

import grpc
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from google.protobuf import text_format

from serving.addresses import bare_host, join_address
from serving.files import write_json
from serving.wire import messages

_GRPC_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
    # Clients may ping often, so that lost connections are detected.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


class StartupError(ValueError):
    """A server cannot start. The text is one line with a remedy."""


@dataclasses.dataclass(frozen=True)
class TlsFiles:
    """Contents of the files in TensorFlow Serving's `SSLConfig`."""

    key: bytes = dataclasses.field(repr=False)
    certificate: bytes
    client_ca: bytes
    verify_client: bool


def read_text_proto(path: str | os.PathLike[str], message: Any) -> Any:
    """Parses a text protobuf file into a message."""
    kind = message.DESCRIPTOR.name
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise StartupError(
            f"{path}: cannot be read: {error.strerror}; expected a text "
            f"protobuf of {kind}"
        ) from error
    except UnicodeDecodeError as error:
        raise StartupError(f"{path}: is not UTF-8 text") from error
    try:
        return text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise StartupError(f"{path}: is not a {kind}: {error}") from error


def read_tls(path: str) -> TlsFiles | None:
    """Reads an `SSLConfig`; returns None, plain text, for an empty path."""
    if not path:
        return None
    proto = read_text_proto(path, messages.SSLConfig())
    if not proto.server_key or not proto.server_cert:
        raise StartupError(f"{path}: server_key and server_cert are required")
    if proto.client_verify and not proto.custom_ca:
        raise StartupError(f"{path}: client_verify needs custom_ca")
    files = TlsFiles(
        key=proto.server_key.encode(),
        certificate=proto.server_cert.encode(),
        client_ca=proto.custom_ca.encode(),
        verify_client=proto.client_verify,
    )
    try:
        ssl_context(files)  # gRPC would only report that it cannot listen.
    except ssl.SSLError as error:
        raise StartupError(
            f"{path}: key and certificates cannot be used: {error}"
        ) from error
    return files


def ssl_context(files: TlsFiles) -> ssl.SSLContext:
    """Returns the TLS context of a REST port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    descriptor, path = tempfile.mkstemp()  # Readable only by its owner.
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(files.key + b"\n" + files.certificate)
        # Without a password, OpenSSL would prompt for one.
        context.load_cert_chain(path, password="")
        if files.verify_client:
            context.load_verify_locations(cadata=files.client_ca.decode())
            context.verify_mode = ssl.CERT_REQUIRED
    finally:
        os.unlink(path)
    return context


class Ports:
    """Addresses of a server. Ports are None before the start or if disabled."""

    def __init__(self, host: str, rest_scheme: str = "http") -> None:
        self._host = host
        self._rest_scheme = rest_scheme
        self.grpc_port: int | None = None
        self.rest_port: int | None = None
        self._port_file: pathlib.Path | None = None

    @property
    def grpc_target(self) -> str:
        """The gRPC address, `host:port`."""
        return join_address(self._host, self.grpc_port)

    @property
    def rest_url(self) -> str:
        """The REST base URL, without a trailing slash."""
        address = join_address(self._host, self.rest_port)
        return f"{self._rest_scheme}://{address}"

    def write_port_file(self, path: str, rest: str) -> None:
        """Writes host, ports (REST as `rest`) and process id as JSON."""
        if not path:
            return
        # The process may change its working directory before removing it.
        self._port_file = pathlib.Path(path).absolute()
        ports = {"port": self.grpc_port, rest: self.rest_port}
        try:
            write_json(
                self._port_file,
                {"host": self._host, **ports, "pid": os.getpid()},
            )
        except OSError as error:
            raise StartupError(
                f"cannot write the port file {path}: {error.strerror}"
            ) from error

    def remove_port_file(self) -> None:
        """Removes the port file."""
        if self._port_file is not None:
            self._port_file.unlink(missing_ok=True)


def check_port(host: str, port: int, option: str) -> None:
    """Raises StartupError with the option's name if a port is in use."""
    if port < 1:
        return
    try:
        found = socket.getaddrinfo(
            bare_host(host), port, type=socket.SOCK_STREAM
        )
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1)  # Since two sockets may bind the same port.
    except OSError as error:
        raise StartupError(
            f"cannot listen on {join_address(host, port)}: {error.strerror} "
            f"(choose another {option}; 0 takes a free one)"
        ) from error


def make_grpc_server(max_request_bytes: int) -> grpc.aio.Server:
    """Creates a server without methods and ports; -1 allows any size."""
    limit = ("grpc.max_receive_message_length", max_request_bytes)
    return grpc.aio.server(options=[limit, *_GRPC_OPTIONS])


def listen_grpc(
    server: grpc.aio.Server, host: str, port: int, tls: TlsFiles | None
) -> int:
    """Opens a gRPC port and returns its number; 0 chooses a free one."""
    check_port(host, port, "--port")  # gRPC would not give a reason.
    address = join_address(host, port)
    try:
        if tls is None:
            return int(server.add_insecure_port(address))
        credentials = grpc.ssl_server_credentials(
            [(tls.key, tls.certificate)],
            root_certificates=tls.client_ca or None,
            require_client_auth=tls.verify_client,
        )
        return int(server.add_secure_port(address, credentials))
    except RuntimeError as error:
        raise StartupError(f"cannot listen on {address} for gRPC") from error


async def listen_rest(
    app: web.Application,
    host: str,
    port: int,
    option: str,
    tls: TlsFiles | None = None,
    **options: Any,
) -> tuple[web.AppRunner, int]:
    """Serves an application; returns its runner and the port."""
    check_port(host, port, option)
    logger = logging.getLogger("aiohttp.server")
    logger.addFilter(_in_one_line)
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        # A call does not start after its client has disconnected.
        handler_cancellation=True,
        auto_decompress=False,  # A small body could expand to any size.
        **options,
    )
    await runner.setup()
    context = None if tls is None else ssl_context(tls)
    try:
        await web.TCPSite(runner, host, port, ssl_context=context).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner, runner.addresses[0][1]


def _in_one_line(record: logging.LogRecord) -> bool:
    """Removes the traceback of a malformed request from the log."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        reason = error.message.partition("\n")[0]
        record.msg = f"{record.getMessage()}: {error.code} {reason}"
        record.args, record.exc_info = (), None
    return True


def stop_signal() -> asyncio.Event:
    """Returns an event that SIGTERM and SIGINT set."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping
