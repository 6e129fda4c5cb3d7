"""A relay between a client and a server."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading

from serving.addresses import split_address


class Relay:
    """Passes bytes on to a server, but not when told otherwise.

    Args:
        target: `host:port` of the server.
        context: encrypts the clients' side, as a proxy before a server does.
    """

    def __init__(
        self, target: str, context: ssl.SSLContext | None = None
    ) -> None:
        self._server = split_address(target)
        self._context = context
        self._flowing = threading.Event()
        self._flowing.set()
        self._forgotten: set[socket.socket] = set()
        self._sockets = [socket.create_server(("127.0.0.1", 0))]
        self.address = f"127.0.0.1:{self._sockets[0].getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self) -> None:
        self._flowing.clear()

    def release(self) -> None:
        self._flowing.set()

    def forget(self) -> None:
        """Loses the open connections without a word; new ones are let in."""
        self._forgotten |= set(self._sockets[1:])

    def reset(self) -> None:
        """Resets the open connections; new ones are let in."""
        for one in self._sockets[1:]:
            now = struct.pack("ii", 1, 0)
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
                one.shutdown(socket.SHUT_RDWR)
                one.close()

    def close(self) -> None:
        self.release()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._sockets[0].accept()
                threading.Thread(
                    target=self._connect, args=(client,), daemon=True
                ).start()

    def _connect(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
            server = socket.create_connection(self._server)
            self._sockets += [client, server]
            for pair in ((client, server), (server, client)):
                threading.Thread(
                    target=self._pump, args=pair, daemon=True
                ).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flowing.wait()
                if source not in self._forgotten:
                    sink.sendall(data)
            if source not in self._forgotten:
                sink.shutdown(socket.SHUT_WR)
