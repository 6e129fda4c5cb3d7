"""What both servers do with a connection that is not HTTP."""

import asyncio
import logging

from aiohttp import web

from serving import startup


def test_a_malformed_request_is_one_line_of_log(caplog):
    async def answer() -> bytes:
        app = web.Application()
        runner, port = await startup.listen_rest(app, "127.0.0.1", 0, "port")
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nno header\r\n\r\n")
            found = await reader.read()
            writer.close()
            return found
        finally:
            await runner.cleanup()

    with caplog.at_level(logging.INFO, "aiohttp.server"):
        assert b" 400 " in asyncio.run(answer()).splitlines()[0]
    (record,) = caplog.records
    text = logging.Formatter().format(record)
    assert "\n" not in text and "400" in text and "127.0.0.1" in text
