"""Calls to the model server as gRPC messages."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from serving.client.calls import GetMetadata, GetStatus, Predict, Target
from serving.client.errors import RequestError, ResponseError
from serving.client.types import (
    ModelMetadata,
    Signature,
    TensorSpec,
    VersionStatus,
)
from serving.wire import messages
from serving.wire.predict_bytes import write_predict
from serving.wire.tensors import TensorError, array_from_proto

PREDICT = "/tensorflow.serving.PredictionService/Predict"


class Method(NamedTuple):
    """How a call is made by gRPC.

    `write` serializes the request, `parse` parses the response into a message,
    and `read` converts this message to the result.
    """

    path: str
    write: Callable[[Any], bytes]
    parse: Callable[[bytes], Any]
    read: Callable[[Any], Any]


def predict_request(
    target: Target,
    signature: str,
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str] = (),
) -> bytes:
    """Writes a PredictRequest."""
    head = messages.PredictRequest(model_spec=_spec(target))
    head.model_spec.signature_name = signature
    try:
        return write_predict(head, inputs, outputs)
    except TensorError as error:
        raise RequestError(
            error.field, "be an array of a TensorFlow type", str(error)
        ) from error


def _spec(target: Target) -> dict[str, Any]:
    spec: dict[str, Any] = {"name": target.model}
    if target.version is not None:
        spec["version"] = {"value": target.version}
    if target.label is not None:
        spec["version_label"] = target.label
    return spec


def _read_predict(response: Any) -> dict[str, np.ndarray]:
    try:
        return {
            name: array_from_proto(proto)
            for name, proto in response.outputs.items()
        }
    except TensorError as error:
        raise ResponseError(f"unreadable output: {error}") from error


def _write_status(call: GetStatus) -> bytes:
    request = messages.GetModelStatusRequest(model_spec=_spec(call.target))
    return bytes(request.SerializeToString())


def read_status(response: Any) -> list[VersionStatus]:
    """Reads a GetModelStatusResponse, newest version first."""
    found = [
        VersionStatus(
            version=entry.version,
            state=enum_name(entry, "state"),
            code=enum_name(entry.status, "error_code"),
            message=entry.status.error_message,
        )
        for entry in response.model_version_status
    ]
    return sorted(found, key=lambda status: -status.version)


def _write_metadata(call: GetMetadata) -> bytes:
    request = messages.GetModelMetadataRequest(
        model_spec=_spec(call.target), metadata_field=["signature_def"]
    )
    return bytes(request.SerializeToString())


def _read_metadata(response: Any) -> ModelMetadata:
    if "signature_def" not in response.metadata:
        raise ResponseError("the metadata hold no signature_def")
    found = messages.SignatureDefMap()
    found.ParseFromString(response.metadata["signature_def"].value)
    return model_metadata(response.model_spec, found)


def model_metadata(spec: Any, found: Any) -> ModelMetadata:
    """Reads a ModelSpec and a SignatureDefMap."""
    return ModelMetadata(
        name=spec.name,
        version=spec.version.value,
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
            dtype=enum_name(info, "dtype").removeprefix("DT_").lower(),
            shape=(
                None
                if info.tensor_shape.unknown_rank
                else tuple(dim.size for dim in info.tensor_shape.dim)
            ),
        )
        for name, info in sorted(infos.items())
    }


def enum_name(message: Any, field: str) -> str:
    """Returns the name of an enum's value, or its number if it has none."""
    number = getattr(message, field)
    kind: Any = type(message)
    return _enum_names(kind, field).get(number, str(number))


@functools.cache
def _enum_names(kind: Any, field: str) -> dict[int, str]:
    # Cached, because a collection of garbage in another thread has crashed
    # Python 3.13.5 while protobuf made these descriptors again.
    values = kind.DESCRIPTOR.fields_by_name[field].enum_type.values
    return {value.number: value.name for value in values}


METHODS: Mapping[type, Method] = {
    Predict: Method(
        PREDICT,
        lambda call: predict_request(
            call.target, call.signature, call.inputs, call.outputs
        ),
        messages.PredictResponse.FromString,
        _read_predict,
    ),
    GetMetadata: Method(
        "/tensorflow.serving.PredictionService/GetModelMetadata",
        _write_metadata,
        messages.GetModelMetadataResponse.FromString,
        _read_metadata,
    ),
    GetStatus: Method(
        "/tensorflow.serving.ModelService/GetModelStatus",
        _write_status,
        messages.GetModelStatusResponse.FromString,
        read_status,
    ),
}
"""The method of each type of call."""
