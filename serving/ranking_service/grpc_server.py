"""The ranking service by gRPC, with the standard health service."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from serving.addresses import join_address
from serving.client.channels import SERVER_KEEPALIVE
from serving.client.errors import RequestError
from serving.client.ranking import RankingRequest, write_rank
from serving.ranking_service.failures import (
    PATH_HEADER,
    UnrankedError,
    failure_of,
)
from serving.ranking_service.service import RankingService
from serving.wire import ranking_messages as wire

__all__ = ["GrpcServer"]

_MAX_REQUEST_BYTES = 4 * 1024 * 1024


class GrpcServer:
    """Serves `muse.serving.v1.RankingService` and `grpc.health.v1.Health`."""

    def __init__(self, service: RankingService) -> None:
        self._service = service
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", _MAX_REQUEST_BYTES),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
                *SERVER_KEEPALIVE,
            ]
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._server.add_generic_rpc_handlers((self._handlers(),))

    def bind(
        self,
        host: str,
        port: int,
        credentials: grpc.ServerCredentials | None = None,
    ) -> int:
        """Takes the port; `start` lets calls in; returns the port.

        Raises:
            OSError: it is taken or not allowed.
        """
        address = join_address(host, port)
        try:
            if credentials is None:
                found = self._server.add_insecure_port(address)
            else:
                found = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address} for gRPC") from error
        return int(found)

    async def start(self) -> None:
        """Lets calls in."""
        await self._server.start()

    async def tell_health(self, ready: bool) -> None:
        """Sets what the health service answers."""
        state = health_pb2.HealthCheckResponse
        status = state.SERVING if ready else state.NOT_SERVING
        for name in ("", wire.SERVICE):
            await self._health.set(name, status)

    async def stop(self, seconds: float) -> None:
        """Refuses new calls and waits for those in flight."""
        await self._server.stop(seconds)

    def _handlers(self) -> Any:
        return grpc.method_handlers_generic_handler(
            wire.SERVICE,
            {
                "Rank": grpc.unary_unary_rpc_method_handler(
                    self._rank,
                    response_serializer=_to_bytes,
                ),
                "AppendEvents": grpc.unary_unary_rpc_method_handler(
                    self._append,
                    response_serializer=_to_bytes,
                ),
            },
        )

    async def _rank(self, data: bytes, context: Any) -> Any:
        try:
            message = _parse(wire.RankRequest, data)
            deadline = message.deadline_ms
            left = context.time_remaining()
            if left is not None:
                # The caller waits no longer than this.
                default = self._service.config.deadline_ms
                deadline = min(deadline or default, max(1.0, 1e3 * left))
            request = RankingRequest(
                user_id=message.user_id,
                candidate_item_ids=list(message.candidate_item_ids) or None,
                num_candidates=message.num_candidates,
                deadline_ms=deadline,
                request_id=message.request_id,
                sort=message.sort,
                top=message.top,
            )
            result = await self._service.rank(request)
            context.set_trailing_metadata(((PATH_HEADER, result.path),))
            if self._service.refuses(result):
                raise UnrankedError
            return write_rank(result)
        except Exception as error:
            await self._abort(context, error)

    async def _append(self, data: bytes, context: Any) -> Any:
        try:
            message = _parse(wire.AppendEventsRequest, data)
            count = await self._service.append_events(
                message.user_id,
                list(message.item_ids),
                list(message.category_ids),
            )
            return wire.AppendEventsResponse(appended=count)
        except Exception as error:
            await self._abort(context, error)

    async def _abort(self, context: Any, error: Exception) -> None:
        failure = failure_of(error)
        self._service.count_failure(failure)
        metadata = list(context.trailing_metadata())
        if failure.retry_after:
            metadata.append(("retry-after", str(failure.retry_after)))
        await context.abort(
            getattr(grpc.StatusCode, failure.code),
            failure.text,
            tuple(metadata),
        )


def _parse(kind: Any, data: bytes) -> Any:
    # grpc itself would answer UNKNOWN and log a traceback.
    message = kind()
    try:
        whole = message.MergeFromString(data) == len(data)
    except DecodeError:
        whole = False
    if not whole:
        raise RequestError("request", f"be a {kind.DESCRIPTOR.name}", data)
    return message


def _to_bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString())
