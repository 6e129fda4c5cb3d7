"""PredictionService and ModelService."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
)

from serving.client.predict_bytes import read_predict
from serving.server.config_files import models_from_proto
from serving.server.dispatch import Dispatcher
from serving.server.errors import (
    ServingError,
    StartupError,
    invalid_argument,
    truncated,
)
from serving.server.model_manager import ModelManager
from serving.server.replies import metadata_reply, status_reply
from serving.server.signatures import predict

__all__ = ["ModelService", "PredictionService", "add_services"]

_logger = logging.getLogger(__name__)

_Reader = Callable[[bytes], Any]
_Method = Callable[[Any, Any], Awaitable[Any]]


class PredictionService:
    """Runs models.

    Args:
        manager: the models.
        dispatcher: threads to run them in.
    """

    def __init__(self, manager: ModelManager, dispatcher: Dispatcher) -> None:
        """Keeps the settings; see the class for the arguments."""
        self._manager = manager
        self._dispatcher = dispatcher

    async def Predict(self, request: Any, context: Any) -> Any:
        """Runs a signature on tensors."""
        spec = request.model_spec

        def work(timeout_ms: int | None) -> Any:
            if not request.HasField("model_spec"):
                raise invalid_argument("Missing ModelSpec")
            with self._manager.lease(spec.name, *_version(spec)) as servable:
                return predict(servable, request, timeout_ms)

        try:
            return await self._dispatcher.run(
                "Predict", spec.name, work, context.time_remaining()
            )
        except ServingError as error:
            failure = error
        except Exception:
            _logger.exception("Predict failed")
            failure = ServingError(
                grpc.StatusCode.INTERNAL, "Internal error, see the log"
            )
        await _abort(context, failure)

    async def GetModelMetadata(self, request: Any, context: Any) -> Any:
        """Gives the signatures of a version."""
        if not request.HasField("model_spec"):
            await _abort(context, invalid_argument("Missing ModelSpec"))
        try:
            return metadata_reply(
                self._manager,
                request.model_spec.name,
                *_version(request.model_spec),
                fields=tuple(request.metadata_field),
            )
        except ServingError as error:
            await _abort(context, error)


class ModelService:
    """Tells and changes what is loaded.

    Args:
        manager: the models.
    """

    def __init__(self, manager: ModelManager) -> None:
        """Keeps the settings; see the class for the arguments."""
        self._manager = manager

    async def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: Any
    ) -> Any:
        """Gives the states of the versions of a model."""
        if not request.HasField("model_spec"):
            await _abort(context, invalid_argument("Missing ModelSpec"))
        try:
            return status_reply(
                self._manager,
                request.model_spec.name,
                _version(request.model_spec)[0],  # A label is not looked at.
            )
        except ServingError as error:
            await _abort(context, error)

    async def HandleReloadConfigRequest(
        self,
        request: model_management_pb2.ReloadConfigRequest,
        context: Any,
    ) -> Any:
        """Serves the models of a new configuration instead."""
        try:
            models = models_from_proto(request.config, "ReloadConfigRequest")
        except StartupError as error:
            await _abort(context, invalid_argument(str(error)))
        try:
            await asyncio.get_running_loop().run_in_executor(
                None, self._manager.apply, models
            )
        except ServingError as error:
            await _abort(context, error)
        return model_management_pb2.ReloadConfigResponse()


def add_services(
    server: Any, manager: ModelManager, dispatcher: Dispatcher
) -> None:
    """Adds both services to a gRPC server.

    Args:
        server: a `grpc.aio` server.
        manager: the models.
        dispatcher: threads to run them in.
    """
    # Of such a message protobuf would read the first part and drop the rest.
    # As an error it comes out of C code as a SystemError.
    warnings.filterwarnings("error", "Unexpected end-group tag", RuntimeWarning)
    services: dict[str, tuple[Any, dict[str, _Reader]]] = {
        "PredictionService": (
            PredictionService(manager, dispatcher),
            _PREDICTION_READERS,
        ),
        "ModelService": (ModelService(manager), _MODEL_READERS),
    }
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                f"tensorflow.serving.{name}",
                {
                    method: grpc.unary_unary_rpc_method_handler(
                        _refusing_malformed(getattr(service, method)),
                        request_deserializer=_reader(method, read),
                        response_serializer=_write,
                    )
                    for method, read in readers.items()
                },
            )
            for name, (service, readers) in services.items()
        ]
    )


# The stubs would register these as well, but let protobuf read Predict, and
# write a traceback for every message that is none.
_PREDICTION_READERS: dict[str, _Reader] = {
    "Predict": lambda raw: read_predict(raw, predict_pb2.PredictRequest),
    "GetModelMetadata": (
        get_model_metadata_pb2.GetModelMetadataRequest.FromString
    ),
}
_MODEL_READERS: dict[str, _Reader] = {
    "GetModelStatus": get_model_status_pb2.GetModelStatusRequest.FromString,
    "HandleReloadConfigRequest": (
        model_management_pb2.ReloadConfigRequest.FromString
    ),
}


class _Malformed:
    """Stands for a request that is not the message it should be."""

    def __init__(self, message: str) -> None:
        """Keeps the text for the client."""
        self.message = message


def _reader(method: str, read: _Reader) -> _Reader:
    def read_or_tell(raw: bytes) -> Any:
        try:
            return read(raw)
        except (DecodeError, SystemError):
            return _Malformed(f"Failed to parse the request of {method}")

    return read_or_tell


def _refusing_malformed(method: _Method) -> _Method:
    async def call(request: Any, context: Any) -> Any:
        if isinstance(request, _Malformed):
            await _abort(
                context,
                ServingError(grpc.StatusCode.INTERNAL, request.message),
            )
        return await method(request, context)

    return call


def _write(message: Any) -> bytes:
    return message.SerializeToString()


def _version(spec: Any) -> tuple[int | None, str | None]:
    choice = spec.WhichOneof("version_choice")
    if choice == "version":
        return spec.version.value, None
    if choice == "version_label":
        return None, spec.version_label
    return None, None


async def _abort(context: Any, error: ServingError) -> NoReturn:
    await context.abort(error.code, truncated(error.message))
    raise error
