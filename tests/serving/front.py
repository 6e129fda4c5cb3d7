"""A model server before another one, which fails when told to."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from serving.client import wire_grpc
from serving.wire import messages

__all__ = ["GARBAGE", "HANGS", "Front", "front_of"]

HANGS = "hangs"
"""The call is taken and never answered."""
GARBAGE = b"\xff\xff\xff\xff"
"""An answer that is no message."""

Fault = str | bytes | grpc.StatusCode | Callable[[], Any]


class Front(grpc.GenericRpcHandler):
    """Passes calls on, but for those that it was told to fail.

    A real gRPC server: what asks it meets the faults on the wire.

    Args:
        target: `host:port` of the model server.

    Attributes:
        faults: model and signature to what its calls meet: `HANGS`, a status,
            the bytes of an answer, or a function to call before the call is
            passed on.
        met: the faults that calls met, by the same keys, one for each call.
    """

    def __init__(self, target: str) -> None:
        self.faults: dict[tuple[str, str], Fault] = {}
        self.met: list[tuple[str, str]] = []
        self._channel = grpc.insecure_channel(
            target, [("grpc.max_receive_message_length", -1)]
        )

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            return self._answer(details.method, request, context)

        return grpc.unary_unary_rpc_method_handler(answer)

    def close(self) -> None:
        self._channel.close()

    def _answer(
        self, method: str, request: bytes, context: grpc.ServicerContext
    ) -> bytes:
        key = ("", "")
        if method == wire_grpc.PREDICT:
            spec = messages.PredictRequest.FromString(request).model_spec
            key = (spec.name, spec.signature_name)
        fault = self.faults.get(key)
        if fault is not None:
            self.met.append(key)
        if fault == HANGS:
            given_up = threading.Event()
            if context.add_callback(given_up.set):
                given_up.wait()
            return b""
        if isinstance(fault, bytes):
            return fault
        if isinstance(fault, grpc.StatusCode):
            context.abort(fault, "as the test wants it")
        if callable(fault):
            fault()
        try:
            passed_on = self._channel.unary_unary(method)
            return passed_on(request, timeout=context.time_remaining())
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())
            raise AssertionError from error  # abort() raises.


@contextlib.contextmanager
def front_of(target: str) -> Iterator[tuple[Front, str]]:
    """A front while the context is open, and its `host:port`."""
    front = Front(target)
    server = grpc.server(
        ThreadPoolExecutor(32),
        [front],
        options=[("grpc.max_receive_message_length", -1)],
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield front, f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
        front.close()
