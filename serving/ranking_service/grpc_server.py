"""The gRPC interface of the ranking service."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message import DecodeError

from serving.client.errors import RequestError
from serving.client.ranking_wire import (
    read_events,
    read_request,
    write_rank,
)
from serving.ranking_service.failures import (
    PATH_HEADER,
    UnrankedError,
    failure_of,
)
from serving.ranking_service.service import RankingService
from serving.wire import ranking_messages as wire


def add_service(server: grpc.aio.Server, service: RankingService) -> None:
    """Adds `muse.serving.v1.RankingService` to a server."""

    async def rank(data: bytes, context: grpc.aio.ServicerContext) -> Any:
        message = _parse(wire.RankRequest, data)
        deadline = message.deadline_ms
        left = context.time_remaining()
        if left is not None:
            # The caller does not wait longer than this.
            default = service.config.deadline_ms
            deadline = min(deadline or default, max(1.0, 1e3 * left))
        result = await service.rank(read_request(message, deadline))
        context.set_trailing_metadata(((PATH_HEADER, result.path),))
        if service.refuses(result):
            raise UnrankedError
        return write_rank(result)

    async def append(data: bytes, context: grpc.aio.ServicerContext) -> Any:
        message = _parse(wire.AppendEventsRequest, data)
        events = read_events(message)
        count = await service.append_events(
            events.user_id,
            events.item_ids,
            events.behaviors,
            events.user,
            events.times,
        )
        return wire.AppendEventsResponse(appended=count)

    def handler(method: Any) -> grpc.RpcMethodHandler:
        async def call(data: bytes, context: grpc.aio.ServicerContext) -> Any:
            try:
                return await method(data, context)
            except Exception as error:
                failure = failure_of(error)
                service.count_failure(failure)
            metadata = list(context.trailing_metadata())
            if failure.retry_after:
                metadata.append(("retry-after", str(failure.retry_after)))
            await context.abort(
                getattr(grpc.StatusCode, failure.code),
                failure.text,
                tuple(metadata),
            )

        return grpc.unary_unary_rpc_method_handler(
            call,
            response_serializer=lambda message: message.SerializeToString(),
        )

    methods = {"Rank": handler(rank), "AppendEvents": handler(append)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(wire.SERVICE, methods),)
    )


def _parse(kind: Any, data: bytes) -> Any:
    # Parsed here, since grpc would answer UNKNOWN and log a traceback.
    message = kind()
    try:
        whole = message.MergeFromString(data) == len(data)
    except DecodeError:
        whole = False
    if not whole:
        raise RequestError("request", f"be a {kind.DESCRIPTOR.name}", data)
    return message
