"""PredictionService and ModelService."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
)

from serving.model_server.config_files import models_from_proto
from serving.model_server.dispatch import Dispatcher
from serving.model_server.errors import (
    ServingError,
    StartupError,
    invalid_argument,
    truncated,
)
from serving.model_server.model_manager import ModelManager
from serving.model_server.replies import metadata_reply, status_reply
from serving.model_server.signatures import predict
from serving.wire.predict_bytes import read_predict

__all__ = ["add_services"]

_logger = logging.getLogger(__name__)

_Reader = Callable[[bytes], Any]
_Method = Callable[[Any, Any], Awaitable[Any]]

# The generated stubs would register the methods as well, but let protobuf
# read Predict, and write a traceback for every message that is none.
_READERS: dict[str, dict[str, _Reader]] = {
    "PredictionService": {
        "Predict": lambda raw: read_predict(raw, predict_pb2.PredictRequest),
        "GetModelMetadata": (
            get_model_metadata_pb2.GetModelMetadataRequest.FromString
        ),
    },
    "ModelService": {
        "GetModelStatus": get_model_status_pb2.GetModelStatusRequest.FromString,
        "HandleReloadConfigRequest": (
            model_management_pb2.ReloadConfigRequest.FromString
        ),
    },
}


def add_services(
    server: Any, manager: ModelManager, dispatcher: Dispatcher
) -> None:
    """Adds both services to a gRPC server."""
    # Of such a message protobuf would read the first part and drop the rest.
    # As an error it comes out of C code as a SystemError.
    warnings.filterwarnings("error", "Unexpected end-group tag", RuntimeWarning)
    methods = _Methods(manager, dispatcher)
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                f"tensorflow.serving.{service}",
                {
                    name: grpc.unary_unary_rpc_method_handler(
                        _answering(name, getattr(methods, name)),
                        request_deserializer=_reader(name, read),
                        response_serializer=_write,
                    )
                    for name, read in readers.items()
                },
            )
            for service, readers in _READERS.items()
        ]
    )


class _Methods:
    """The methods of both services; they raise `ServingError`."""

    def __init__(self, manager: ModelManager, dispatcher: Dispatcher) -> None:
        self._manager = manager
        self._dispatcher = dispatcher

    async def Predict(self, request: Any, context: Any) -> Any:
        """Runs a signature on tensors."""
        spec = request.model_spec

        def work(timeout_ms: int | None) -> Any:
            _check_spec(request)
            with self._manager.lease(spec.name, *_version(spec)) as servable:
                return predict(servable, request, timeout_ms)

        return await self._dispatcher.run(
            "Predict", spec.name, work, context.time_remaining()
        )

    async def GetModelMetadata(self, request: Any, _: Any) -> Any:
        """Gives the signatures of a version."""
        _check_spec(request)
        return metadata_reply(
            self._manager,
            request.model_spec.name,
            *_version(request.model_spec),
            fields=tuple(request.metadata_field),
        )

    async def GetModelStatus(self, request: Any, _: Any) -> Any:
        """Gives the states of the versions of a model."""
        _check_spec(request)
        spec = request.model_spec  # A label is not looked at.
        return status_reply(self._manager, spec.name, _version(spec)[0])

    async def HandleReloadConfigRequest(self, request: Any, _: Any) -> Any:
        """Serves the models of a new configuration instead."""
        try:
            models = models_from_proto(request.config, "ReloadConfigRequest")
        except StartupError as error:
            raise invalid_argument(str(error)) from error
        await asyncio.get_running_loop().run_in_executor(
            None, self._manager.apply, models
        )
        return model_management_pb2.ReloadConfigResponse()


def _reader(name: str, read: _Reader) -> _Reader:
    def read_or_tell(raw: bytes) -> Any:
        try:
            return read(raw)
        except (DecodeError, SystemError):
            return ServingError(
                grpc.StatusCode.INTERNAL,
                f"Failed to parse the request of {name}",
            )

    return read_or_tell


def _answering(name: str, method: _Method) -> _Method:
    """Makes a handler that ends a call with the status of its error."""

    async def call(request: Any, context: Any) -> Any:
        try:
            if isinstance(request, ServingError):
                raise request
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


def _write(message: Any) -> bytes:
    return message.SerializeToString()


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
