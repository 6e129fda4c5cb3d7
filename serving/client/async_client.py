"""The asynchronous client of a model server."""

from __future__ import annotations

from serving.client.base import AsyncClient, ModelClient, awaited
from serving.client.calls import AsyncTransport, Transport
from serving.client.channels import AsyncGrpcTransport
from serving.client.client import MuseClient
from serving.client.rest import AsyncRestTransport


class AsyncMuseClient(ModelClient[Transport | AsyncTransport], AsyncClient):
    """Calls a served MUSE model without blocking the event loop.

    Arguments, results and errors are those of `MuseClient`; the methods are
    coroutines. Canceling one cancels the call at the server if it uses gRPC; a
    REST call runs in a thread and continues there. A client belongs to one
    event loop. Close it, or use it with `async with`.

    Example:
        >>> async def clicks(request):  # doctest: +SKIP
        ...     async with AsyncMuseClient("127.0.0.1:8500") as client:
        ...         result = await client.rank(request, timeout=0.05)
        ...         return result.click_probability
    """

    _transports = {"grpc": AsyncGrpcTransport, "rest": AsyncRestTransport}

    rank = awaited(MuseClient.rank)
    explain = awaited(MuseClient.explain)
    prefetch = awaited(MuseClient.prefetch)
    rank_cached = awaited(MuseClient.rank_cached)
    user_cache = awaited(MuseClient.user_cache)
    resolve_items = awaited(MuseClient.resolve_items)
    embed = awaited(MuseClient.embed)
    upsert_items = awaited(MuseClient.upsert_items)
    predict_examples = awaited(MuseClient.predict_examples)
    recommend = awaited(MuseClient.recommend)
    search = awaited(MuseClient.search)
    predict = awaited(MuseClient.predict)
    metadata = awaited(MuseClient.metadata)
    status = awaited(MuseClient.status)
