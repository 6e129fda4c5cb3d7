"""Calls to the model server as HTTP requests with JSON bodies."""

from __future__ import annotations

import base64
import contextlib
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from google.protobuf import json_format

from serving.client import wire_grpc
from serving.client.calls import Target
from serving.client.errors import (
    CallError,
    RequestError,
    ResponseError,
    call_error,
)
from serving.client.types import ModelMetadata, TensorSpec, VersionStatus
from serving.wire import messages
from serving.wire.statuses import HTTP_STATUS
from serving.wire.tensors import TensorError, dtype_number

try:  # Optional, faster.
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

_STRING = 7
_PLAIN_INTEGERS = (np.dtype(np.int32), np.dtype(np.int64))  # Native order.
_CODE_OF_STATUS = {
    status: code for code, status in reversed(HTTP_STATUS.items())
}
_ARRAYS = {
    "float": np.float32,
    "double": np.float64,
    "half": np.float16,
    "bfloat16": np.float32,
    "string": object,
}


class HttpCall(NamedTuple):
    """One HTTP request."""

    method: str
    path: str
    body: bytes | None = None


def predict_call(
    target: Target, signature: str, inputs: Mapping[str, np.ndarray]
) -> HttpCall:
    """Returns the request for a signature, with the inputs by column.

    Arrays of size 0 are rejected, since an empty JSON list has no inner shape.
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
    """Reads the outputs that the signature declares.

    JSON does not hold dtypes, and omits the name of a single output.
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
    """Returns the request for the states of the versions."""
    return HttpCall("GET", _path(target))


def read_status(body: bytes) -> list[VersionStatus]:
    """Reads the states of the versions, newest first."""
    document = _document(body)
    if "model_version_status" not in document:
        raise ResponseError("the answer is not a model status")
    response = _message(messages.GetModelStatusResponse(), document)
    return wire_grpc.read_status(response)


def metadata_call(target: Target) -> HttpCall:
    """Returns the request for the signatures."""
    return HttpCall("GET", _path(target) + "/metadata")


def read_metadata(body: bytes) -> ModelMetadata:
    """Reads the signatures."""
    document = _document(body)
    try:
        spec = document["model_spec"]
        found = document["metadata"]["signature_def"]
    except (KeyError, TypeError) as error:
        raise ResponseError("the answer is not model metadata") from error
    return wire_grpc.model_metadata(
        _message(
            messages.GetModelMetadataResponse(), {"model_spec": spec}
        ).model_spec,
        _message(messages.SignatureDefMap(), found),
    )


def read_error(status: int, body: bytes) -> CallError:
    """Returns the error for an answer with a status other than 200."""
    code = _CODE_OF_STATUS.get(status, "UNKNOWN")
    try:
        message = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        message = f"HTTP {status}: {body[:200].decode('utf-8', 'replace')}"
    if status == 400 and message.startswith("Serving signature name:"):
        code = "FAILED_PRECONDITION"  # As gRPC reports the same error.
    return call_error(code, message)


def _column(array: np.ndarray, number: int) -> bytes:
    """Returns an array as JSON; orjson reads integers from its memory."""
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
    document = None
    if orjson is not None:
        with contextlib.suppress(ValueError):  # NaN and Infinity.
            document = orjson.loads(body)
    try:
        document = json.loads(body) if document is None else document
    except ValueError as error:
        raise ResponseError(f"the answer is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ResponseError("the answer is not a JSON object")
    return document


def _array(name: str, value: Any, spec: TensorSpec | None) -> np.ndarray:
    dtype = None if spec is None else _ARRAYS.get(spec.dtype, spec.dtype)
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


def _message(message: Any, document: Any) -> Any:
    try:
        return json_format.ParseDict(document, message, True)
    except json_format.ParseError as error:
        raise ResponseError(f"the answer does not fit: {error}") from error
