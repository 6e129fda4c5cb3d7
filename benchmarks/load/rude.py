"""Callers that disconnect and malformed requests, which servers must survive.

Each function does one thing once and returns what came of it, a short word.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import aiohttp
import grpc.aio

from serving.client import MuseClientError
from serving.client.wire_grpc import PREDICT
from serving.wire.ranking_messages import APPEND, RANK

ANSWER_S = 10.0
"""A malformed request must be answered, not kept."""

_BODIES: tuple[bytes, ...] = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe\x00",
    b'{"user_id": "seven"}',
    b'{"user_id": 1e99}',
    b'{"user_id": 7, "candidate_item_ids": [0]}',
    b'{"user_id": 7, "candidate_item_ids": [[1]]}',
    b'{"user_id": 7, "deadline_ms": -1}',
    b'{"user_id": 7, "unknown": 1}',
    b'{"instances": [1, {"b": 2}]}',
    b'{"inputs": {"user_id": ["x"]}, "signature_name": "rank"}',
    b'{"inputs": {}, "signature_name": "nothing"}',
    b"[" * 5_000,
)
_LARGE = b'{"user_id": 1, "candidate_item_ids": [' + b"1," * 3_000_000 + b"1]}"


async def leave(call: Any, most: float) -> str:
    """Make a call and give it up after a random time.

    Args:
        call: a coroutine.
        most: longest time, seconds.
    """
    task = asyncio.ensure_future(call)
    await asyncio.sleep(random.uniform(0, most))
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return "left"
    except MuseClientError as error:
        return type(error).__name__
    return "answered"


async def hang_up(address: str) -> str:
    """Send a part of a request, or noise, and close the connection."""
    host, port = address.rsplit(":", 1)
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        random.choice(
            (
                b"",
                b"POST /v1/rank HTTP/1.1\r\nContent-Length: 100000\r\n\r\n{",
                b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + random.randbytes(200),
                random.randbytes(1_000),
            )
        )
    )
    with contextlib.suppress(ConnectionError):
        await writer.drain()
        if random.random() < 0.5:
            await asyncio.sleep(0.01)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return "hung up"


async def post_nonsense(
    session: aiohttp.ClientSession, urls: tuple[str, ...], large: bool
) -> str:
    """Post a body that is wrong.

    Args:
        session: the connections.
        urls: one of them is chosen.
        large: whether the body is larger than any limit of the service.

    Returns:
        The HTTP status, which must not be 200 or 500.
    """
    body = _LARGE if large else random.choice(_BODIES)
    timeout = aiohttp.ClientTimeout(total=ANSWER_S)
    try:
        async with session.post(
            random.choice(urls), data=body, timeout=timeout
        ) as answer:
            await answer.read()
            return f"HTTP {answer.status}"
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        return "HTTP connection closed"


async def send_nonsense(
    channel: grpc.aio.Channel, methods: tuple[str, ...] = (PREDICT,)
) -> str:
    """Call a method with bytes that are no message of it.

    Args:
        channel: the connection.
        methods: one of them is chosen.

    Returns:
        The status. It may be OK: an empty message, and bytes that are only
        unknown fields, are a request of the ranking service for user 0.
    """
    method = channel.unary_unary(random.choice(methods))
    noise = random.choice(
        (
            b"",
            random.randbytes(random.randint(1, 500)),
            b"\x0a\x06\x0a\x04muse\x12\x04\x0a\x02ab",
            b"\x0a\x10\x0a\x04muse" + random.randbytes(8),
        )
    )
    try:
        await method(noise, timeout=ANSWER_S)
    except grpc.aio.AioRpcError as error:
        return f"gRPC {error.code().name}"
    return "gRPC OK"


SERVICE_METHODS = (RANK, APPEND)
