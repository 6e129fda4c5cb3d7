"""Calls as HTTP requests: what is sent and what it means.

Nothing here waits for a network, so any kind of transport may use it.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.client.errors import (
    CallError,
    RequestError,
    ResponseError,
    call_error,
)
from serving.client.types import (
    ModelMetadata,
    Signature,
    TensorSpec,
    VersionStatus,
)
from serving.client.wire_grpc import Target
from serving.wire.tensors import TensorError, dtype_number

try:  # not needed, but faster
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

__all__ = [
    "HttpCall",
    "metadata_call",
    "predict_call",
    "read_error",
    "read_metadata",
    "read_predict",
    "read_status",
    "status_call",
]

_STRING = 7
_PLAIN_INTEGERS = (np.dtype(np.int32), np.dtype(np.int64))  # native order
_CODE_OF_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_ARRAYS = {
    "float": np.float32,
    "double": np.float64,
    "half": np.float16,
    "bfloat16": np.float32,
    "bool": np.bool_,
    "string": object,
}


@dataclasses.dataclass(frozen=True)
class HttpCall:
    """One HTTP request.

    Attributes:
        method: GET or POST.
        path: path of the URL.
        body: JSON text, or nothing.
    """

    method: str
    path: str
    body: bytes | None = None


def predict_call(
    target: Target, signature: str, inputs: Mapping[str, np.ndarray]
) -> HttpCall:
    """Makes a predict call in column form.

    Args:
        target: the model.
        signature: name of the signature.
        inputs: name to array.

    Raises:
        RequestError: an input has no tensor type, or a size that JSON cannot
            tell (a list of nothing has no shape inside).
    """
    columns = []
    for name, value in inputs.items():
        array = np.asarray(value)
        if array.ndim > 1 and 0 in array.shape[:-1]:
            raise RequestError(
                name, "not be empty by REST (use gRPC)", array.shape
            )
        try:
            number = dtype_number(array)
        except TensorError as error:
            raise RequestError(
                name, "be an array of a TensorFlow type", str(error)
            ) from error
        columns.append(_dumps(name) + b":" + _column(array, number))
    body = b'{"signature_name":%b,"inputs":{%b}}' % (
        _dumps(signature),
        b",".join(columns),
    )
    return HttpCall("POST", _path(target) + ":predict", body)


def read_predict(
    body: bytes, outputs: Mapping[str, TensorSpec]
) -> dict[str, np.ndarray]:
    """Reads the answer to a predict call.

    Args:
        body: JSON text.
        outputs: the outputs that the signature declares; JSON has no types,
            and no name where there is one output only.

    Raises:
        ResponseError: it is something else.
    """
    document = _document(body)
    if "outputs" not in document:
        raise ResponseError("the answer has no 'outputs'")
    values = document["outputs"]
    if len(outputs) == 1:
        values = {next(iter(outputs)): values}
    if not isinstance(values, dict):
        raise ResponseError("the 'outputs' of the answer are not named")
    return {
        name: _array(name, value, outputs.get(name))
        for name, value in values.items()
    }


def status_call(target: Target) -> HttpCall:
    """Makes a status call."""
    return HttpCall("GET", _path(target))


def read_status(body: bytes) -> list[VersionStatus]:
    """Reads the answer to a status call, newest version first."""
    document = _document(body)
    try:
        found = [
            VersionStatus(
                version=int(entry["version"]),
                state=entry["state"],
                code=entry["status"]["error_code"],
                message=entry["status"]["error_message"],
            )
            for entry in document["model_version_status"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ResponseError("the answer is not a model status") from error
    return sorted(found, key=lambda status: -status.version)


def metadata_call(target: Target) -> HttpCall:
    """Makes a metadata call."""
    return HttpCall("GET", _path(target) + "/metadata")


def read_metadata(body: bytes) -> ModelMetadata:
    """Reads the answer to a metadata call."""
    document = _document(body)
    try:
        spec = document["model_spec"]
        found = document["metadata"]["signature_def"]["signature_def"]
        return ModelMetadata(
            name=spec["name"],
            version=int(spec["version"]),
            signatures={
                name: Signature(
                    inputs=_specs(entry["inputs"]),
                    outputs=_specs(entry["outputs"]),
                    method=entry["method_name"],
                )
                for name, entry in sorted(found.items())
            },
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ResponseError("the answer is not model metadata") from error


def read_error(status: int, body: bytes) -> CallError:
    """The error that an HTTP answer means.

    Args:
        status: HTTP status.
        body: its body.
    """
    code = _CODE_OF_STATUS.get(status, "UNKNOWN")
    try:
        message = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        message = f"HTTP {status}: {body[:200].decode('utf-8', 'replace')}"
    if status == 400 and message.startswith("Serving signature name:"):
        code = "FAILED_PRECONDITION"  # as gRPC reports the same thing
    return call_error(code, message)


def _column(array: np.ndarray, number: int) -> bytes:
    """An array as JSON; integers straight from memory where orjson is."""
    if number == _STRING:
        return _dumps(_strings(array.tolist()))
    if orjson is not None and array.dtype in _PLAIN_INTEGERS and array.ndim:
        return orjson.dumps(
            np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY
        )
    return _dumps(array.tolist())


def _dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _path(target: Target) -> str:
    path = "/v1/models/" + urllib.parse.quote(target.model, safe="")
    if target.version is not None:
        path += f"/versions/{target.version}"
    if target.label is not None:
        path += "/labels/" + urllib.parse.quote(target.label, safe="")
    return path


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError as error:
        raise ResponseError(f"the answer is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ResponseError("the answer is not a JSON object")
    return document


def _array(name: str, value: Any, spec: TensorSpec | None) -> np.ndarray:
    dtype = None
    if spec is not None:
        dtype = _ARRAYS.get(spec.dtype, spec.dtype)
    try:
        if dtype is object:
            return np.array(_plain_strings(value), object)
        return np.array(value, dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise ResponseError(f"output {name!r}: {error}") from error


def _strings(value: Any) -> Any:
    if isinstance(value, list):
        return [_strings(item) for item in value]
    raw = value if isinstance(value, bytes) else str(value).encode()
    return {"b64": base64.b64encode(raw).decode()}


def _plain_strings(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain_strings(item) for item in value]
    if isinstance(value, dict):
        return base64.b64decode(value["b64"])
    return value.encode()


def _specs(infos: Mapping[str, Any]) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(
            dtype=info["dtype"].removeprefix("DT_").lower(),
            shape=(
                None
                if info["tensor_shape"]["unknown_rank"]
                else tuple(
                    int(dim["size"]) for dim in info["tensor_shape"]["dim"]
                )
            ),
        )
        for name, info in sorted(infos.items())
    }
