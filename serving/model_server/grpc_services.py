"""PredictionService and ModelService."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from tensorflow_serving.apis.get_model_metadata_pb2 import (
    GetModelMetadataRequest,
)
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from tensorflow_serving.apis.model_management_pb2 import (
    ReloadConfigRequest,
    ReloadConfigResponse,
)
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from serving.model_server.config_files import models_from_proto
from serving.model_server.dispatch import Dispatcher
from serving.model_server.errors import (
    ServingError,
    invalid_argument,
    truncated,
)
from serving.model_server.model_manager import ModelManager
from serving.model_server.replies import metadata_reply, status_reply
from serving.model_server.signatures import predict
from serving.startup import StartupError
from serving.wire.predict_bytes import read_predict

_logger = logging.getLogger(__name__)

_Reader = Callable[[bytes], Any]
_Method = Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]


def add_services(
    server: grpc.aio.Server,
    manager: ModelManager,
    dispatcher: Dispatcher,
) -> None:
    """Adds both services to a gRPC server."""
    # Protobuf would read the first part of such a message and drop the rest.
    # As an error, the warning is raised by C code as a SystemError.
    warnings.filterwarnings("error", "Unexpected end-group tag", RuntimeWarning)

    async def predict_(request: Any, context: grpc.aio.ServicerContext) -> Any:
        spec = request.model_spec

        def work(timeout_ms: int | None) -> Any:
            _check_spec(request)
            with manager.lease(spec.name, *_version(spec)) as servable:
                return predict(servable, request, timeout_ms)

        return await dispatcher.run(
            "Predict", spec.name, work, context.time_remaining()
        )

    async def metadata(request: Any, _: grpc.aio.ServicerContext) -> Any:
        _check_spec(request)
        spec, fields = request.model_spec, tuple(request.metadata_field)
        return metadata_reply(
            manager, spec.name, *_version(spec), fields=fields
        )

    async def status(request: Any, _: grpc.aio.ServicerContext) -> Any:
        _check_spec(request)
        spec = request.model_spec  # Its label is ignored.
        return status_reply(manager, spec.name, _version(spec)[0])

    async def reload(request: Any, _: grpc.aio.ServicerContext) -> Any:
        try:
            models = models_from_proto(request.config, "ReloadConfigRequest")
        except StartupError as error:
            raise invalid_argument(str(error)) from error
        await asyncio.get_running_loop().run_in_executor(
            None, manager.apply, models
        )
        return ReloadConfigResponse()

    # The generated stubs would let protobuf parse Predict, and log a traceback
    # for every malformed message.
    services: dict[str, dict[str, tuple[_Method, _Reader]]] = {
        "PredictionService": {
            "Predict": (
                predict_,
                lambda raw: read_predict(raw, PredictRequest),
            ),
            "GetModelMetadata": (metadata, GetModelMetadataRequest.FromString),
        },
        "ModelService": {
            "GetModelStatus": (status, GetModelStatusRequest.FromString),
            "HandleReloadConfigRequest": (
                reload,
                ReloadConfigRequest.FromString,
            ),
        },
    }
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                f"tensorflow.serving.{service}",
                {
                    name: grpc.unary_unary_rpc_method_handler(
                        _answering(name, read, method),
                        response_serializer=lambda it: it.SerializeToString(),
                    )
                    for name, (method, read) in methods.items()
                },
            )
            for service, methods in services.items()
        ]
    )


def _answering(name: str, read: _Reader, method: _Method) -> _Method:
    """Returns a handler that converts errors to the status of a call."""

    async def call(raw: bytes, context: grpc.aio.ServicerContext) -> Any:
        try:
            try:
                request = read(raw)
            except (DecodeError, SystemError) as error:
                raise ServingError(
                    grpc.StatusCode.INTERNAL,
                    f"Failed to parse the request of {name}",
                ) from error
            return await method(request, context)
        except ServingError as error:
            failure = error
        except Exception:
            _logger.exception("%s failed", name)
            failure = ServingError(
                grpc.StatusCode.INTERNAL, "Internal error, see the log"
            )
        await context.abort(failure.code, truncated(failure.message))

    return call


def _check_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")


def _version(spec: Any) -> tuple[int | None, str | None]:
    choice = spec.WhichOneof("version_choice")
    if choice == "version":
        return spec.version.value, None
    if choice == "version_label":
        return None, spec.version_label
    return None, None
