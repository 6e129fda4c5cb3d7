"""Servers that take a request's bytes and answer with bytes, nothing else.

What is left of a call when the server does not look at it: the transfer. gRPC
on the same grpc.aio as the embedded server, HTTP on the same aiohttp. Prints
the two ports and serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import grpc
from aiohttp import web

METHOD = "/echo.Echo/Echo"
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]


async def _serve(answer_bytes: int) -> None:
    answer = b"0" * answer_bytes

    async def echo(_: bytes, __: Any) -> bytes:
        return answer

    async def echo_http(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=answer)

    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "echo.Echo", {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
            ),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    app = web.Application(client_max_size=2**31)
    app.router.add_post("/echo", echo_http)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps([port, runner.addresses[0][1]]), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(None)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
