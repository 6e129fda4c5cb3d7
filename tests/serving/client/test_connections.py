"""How many connections a client opens."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import pytest

from serving.client import AsyncMuseClient, MuseClient


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
