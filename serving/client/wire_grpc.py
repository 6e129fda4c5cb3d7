"""Calls as gRPC messages: what is sent and what it means.

Nothing here waits for a network, so any kind of transport may use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.client.errors import RequestError, ResponseError
from serving.client.types import (
    ModelMetadata,
    Signature,
    TensorSpec,
    VersionStatus,
)
from serving.wire import messages
from serving.wire.predict_bytes import write_predict
from serving.wire.tensors import (
    DTYPE_NAMES,
    TensorError,
    array_from_proto,
)

__all__ = [
    "METADATA",
    "PREDICT",
    "RESPONSES",
    "STATUS",
    "Target",
    "metadata_request",
    "predict_request",
    "read_metadata",
    "read_predict",
    "read_status",
    "status_request",
]

PREDICT = "/tensorflow.serving.PredictionService/Predict"
METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
RESPONSES = {
    PREDICT: messages.PredictResponse.FromString,
    METADATA: messages.GetModelMetadataResponse.FromString,
    STATUS: messages.GetModelStatusResponse.FromString,
}
"""Methods, and what reads their answers."""

STATES = {
    0: "UNKNOWN",
    10: "START",
    20: "LOADING",
    30: "AVAILABLE",
    40: "UNLOADING",
    50: "END",
}
CODES = (
    "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND "
    "ALREADY_EXISTS PERMISSION_DENIED RESOURCE_EXHAUSTED FAILED_PRECONDITION "
    "ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS "
    "UNAUTHENTICATED"
).split()


class Target:
    """Which model a call means.

    Args:
        model: model name.
        version: a certain version, else the newest.
        label: the version that this label names.
    """

    def __init__(
        self, model: str, version: int | None = None, label: str | None = None
    ) -> None:
        """Keeps the settings; see the class for the arguments."""
        if not model:
            raise RequestError("model", "be a name", model)
        if version is not None and label is not None:
            raise RequestError(
                "version", "not be given together with `label`", version
            )
        self.model = model
        self.version = version
        self.label = label

    def fill(self, spec: Any) -> None:
        """Writes it into a ModelSpec."""
        spec.name = self.model
        if self.version is not None:
            spec.version.value = self.version
        if self.label is not None:
            spec.version_label = self.label


def predict_request(
    target: Target,
    signature: str,
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str] = (),
) -> bytes:
    """Makes a PredictRequest, ready to send.

    Args:
        target: the model.
        signature: name of the signature.
        inputs: name to array.
        outputs: outputs to return; none means all.

    Raises:
        RequestError: an input has no tensor type.
    """
    head = messages.PredictRequest()
    target.fill(head.model_spec)
    head.model_spec.signature_name = signature
    try:
        return write_predict(head, inputs, outputs)
    except TensorError as error:
        raise RequestError(
            error.field, "be an array of a TensorFlow type", str(error)
        ) from error


def read_predict(response: Any) -> dict[str, np.ndarray]:
    """Reads a PredictResponse.

    Args:
        response: the message.

    Returns:
        Output name to array.

    Raises:
        ResponseError: a tensor cannot be read.
    """
    try:
        return {
            name: array_from_proto(proto)
            for name, proto in response.outputs.items()
        }
    except TensorError as error:
        raise ResponseError(f"unreadable output: {error}") from error


def status_request(target: Target) -> bytes:
    """Makes a GetModelStatusRequest, ready to send."""
    request = messages.GetModelStatusRequest()
    target.fill(request.model_spec)
    return bytes(request.SerializeToString())


def read_status(response: Any) -> list[VersionStatus]:
    """Reads a GetModelStatusResponse, newest version first."""
    found = [
        VersionStatus(
            version=entry.version,
            state=STATES.get(entry.state, str(entry.state)),
            code=_code(entry.status.error_code),
            message=entry.status.error_message,
        )
        for entry in response.model_version_status
    ]
    return sorted(found, key=lambda status: -status.version)


def metadata_request(target: Target) -> bytes:
    """Makes a GetModelMetadataRequest, ready to send."""
    request = messages.GetModelMetadataRequest()
    target.fill(request.model_spec)
    request.metadata_field.append("signature_def")
    return bytes(request.SerializeToString())


def read_metadata(response: Any) -> ModelMetadata:
    """Reads a GetModelMetadataResponse.

    Args:
        response: the message.

    Raises:
        ResponseError: it holds no signatures.
    """
    if "signature_def" not in response.metadata:
        raise ResponseError("the metadata hold no signature_def")
    found = messages.SignatureDefMap()
    found.ParseFromString(response.metadata["signature_def"].value)
    return ModelMetadata(
        name=response.model_spec.name,
        version=response.model_spec.version.value,
        signatures={
            name: Signature(
                inputs=_specs(entry.inputs),
                outputs=_specs(entry.outputs),
                method=entry.method_name,
            )
            for name, entry in sorted(found.signature_def.items())
        },
    )


def _specs(infos: Any) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(
            dtype=DTYPE_NAMES.get(info.dtype, str(info.dtype)),
            shape=(
                None
                if info.tensor_shape.unknown_rank
                else tuple(dim.size for dim in info.tensor_shape.dim)
            ),
        )
        for name, info in sorted(infos.items())
    }


def _code(number: int) -> str:
    return CODES[number] if 0 <= number < len(CODES) else str(number)
