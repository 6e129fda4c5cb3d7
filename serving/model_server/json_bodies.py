"""Converts JSON bodies of predict calls to arrays, and outputs to JSON.

The formats are those of TensorFlow Serving's REST API. It also reads and writes
NaN, Infinity and bytes that are not UTF-8, which JSON does not allow. If orjson
fails for this reason, the standard library is used.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import orjson

from serving.model_server.errors import invalid_argument, unimplemented
from serving.wire.tensors import DTYPE_NAMES, dtype_number

_STRING, _BOOL = 7, 10
_INTEGERS: dict[int, tuple[type, int, int]] = {
    # dtype, and the range that TensorFlow Serving accepts: 32 bits for the
    # smaller types.
    3: (np.int32, -(2**31), 2**31 - 1),
    4: (np.uint8, -(2**31), 2**31 - 1),
    5: (np.int16, -(2**31), 2**31 - 1),
    6: (np.int8, -(2**31), 2**31 - 1),
    9: (np.int64, -(2**63), 2**63 - 1),
    22: (np.uint32, 0, 2**32 - 1),
    23: (np.uint64, 0, 2**64 - 1),
}
_DECIMALS: dict[int, tuple[type, int]] = {
    # dtype, and the largest integer that it represents exactly.
    1: (np.float32, 2**24 - 1),
    2: (np.float64, 2**53 - 1),
}
_MAX_RANK = 32  # The limit of NumPy 1.


@dataclasses.dataclass(frozen=True)
class PredictBody:
    """A parsed predict request; `row_form` tells if it used `instances`."""

    signature_name: str
    inputs: dict[str, np.ndarray]
    row_form: bool


def read_predict_body(
    body: bytes, inputs_of: Callable[[str], Mapping[str, Any]]
) -> PredictBody:
    """Reads the body of a predict call."""
    document = _parse(body)
    if not isinstance(document, dict):
        raise invalid_argument("The body is not a JSON object")
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_argument("'signature_name' key must be a string value.")
    _encoded("signature_name", name)
    infos = inputs_of(name)
    if not infos:
        raise invalid_argument(
            f"Signature {name or 'DEFAULT'} has no inputs; call it by gRPC"
        )
    if "instances" in document and "inputs" in document:
        raise invalid_argument(
            "Expecting only one of 'inputs' or 'instances' keys to exist"
        )
    if "instances" in document:
        columns = _columns(document["instances"], infos)
    elif "inputs" in document:
        columns = document["inputs"]
        if not _is_object(columns):
            columns = {_only(infos, "inputs"): columns}
    else:
        raise invalid_argument("Missing 'inputs' or 'instances' key")
    inputs = {}
    for alias, info in sorted(infos.items()):
        if alias not in columns:
            raise invalid_argument(
                f"Missing named input: {alias} in 'inputs' object."
            )
        inputs[alias] = _array(alias, columns[alias], info.dtype)
    return PredictBody(name, inputs, "instances" in document)


def error_json(message: str) -> bytes:
    """Returns the body of an error."""
    return _write({"error": message})


def outputs_json(outputs: Mapping[str, np.ndarray]) -> bytes:
    """Returns outputs in column form: one array per output."""
    columns = _writable(outputs)
    only = next(iter(columns.values()))
    return _write({"outputs": only if len(columns) == 1 else columns})


def predictions_json(outputs: Mapping[str, np.ndarray]) -> bytes:
    """Returns outputs in row form: a list with one entry per row."""
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid_argument(
                f"Tensor name: {name} has no shape information"
            )
    sizes = {name: len(array) for name, array in outputs.items()}
    if len(set(sizes.values())) > 1:
        raise invalid_argument(
            f"Outputs have inconsistent batch sizes: {sizes}"
        )
    columns = _writable(outputs)
    if len(columns) == 1:
        (only,) = columns.values()
        return _write({"predictions": only})
    rows = zip(*columns.values(), strict=True)
    return _write(
        {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]}
    )


def _parse(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        fault = error
    try:
        return json.loads(body)  # Unlike orjson, it accepts NaN and Infinity.
    except (ValueError, RecursionError):
        raise invalid_argument(f"JSON Parse error: {fault}") from None


def _columns(rows: Any, infos: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Converts `instances` to one list per input."""
    if not isinstance(rows, list):
        raise invalid_argument("Expecting 'instances' to be a list")
    if not rows:
        raise invalid_argument("No values in 'instances' array")
    if not _is_object(rows[0]):
        return {_only(infos, "instances"): rows}
    for index, row in enumerate(rows):
        if not _is_object(row):
            raise invalid_argument(
                f"Expecting object at item {index} of 'instances'"
            )
        if row.keys() != infos.keys():
            raise invalid_argument(
                f"Failed to process element: {index} of 'instances' list: "
                f"keys must be equal to: {','.join(sorted(infos))}. "
                f"Received: {','.join(sorted(row))}"
            )
    return {name: [row[name] for row in rows] for name in infos}


def _only(infos: Mapping[str, Any], key: str) -> str:
    if len(infos) > 1:
        raise invalid_argument(
            f"Expecting objects in {key!r}, as the signature has several "
            f"inputs: {','.join(sorted(infos))}"
        )
    return next(iter(infos))


def _array(alias: str, value: Any, dtype: int) -> np.ndarray:
    """Converts a JSON value to an array of a declared type."""
    shape: list[int] = []
    flat = [value]
    while list in (kinds := set(map(type, flat))):
        sizes = set(map(len, flat)) if kinds == {list} else set()
        if len(sizes) != 1:
            raise invalid_argument(
                f"Input {alias}: values and lists of different sizes at "
                f"level {len(shape)}"
            )
        shape += sizes
        if len(shape) > _MAX_RANK:
            raise invalid_argument(
                f"Input {alias}: lists are nested more than {_MAX_RANK} deep"
            )
        flat = list(itertools.chain.from_iterable(flat))
    if dtype in _INTEGERS:
        kind, low, high = _INTEGERS[dtype]
        _check_kinds(alias, kinds, {int}, dtype)
        if flat and not low <= min(flat) <= max(flat) <= high:
            raise invalid_argument(
                f"Input {alias}: an integer is beyond the range of "
                f"{DTYPE_NAMES[dtype]}"
            )
        wide = np.array(flat, np.uint64 if low == 0 else np.int64)
        array: np.ndarray = wide.astype(kind, copy=False)
    elif dtype in _DECIMALS:
        _check_kinds(alias, kinds, {int, float}, dtype)
        array = _decimals(alias, flat, dtype, int in kinds)
    elif dtype == _BOOL:
        _check_kinds(alias, kinds, {bool}, dtype)
        array = np.array(flat, np.bool_)
    elif dtype == _STRING:
        _check_kinds(alias, kinds, {str, dict}, dtype)
        array = np.empty(len(flat), object)
        array[:] = [_bytes(alias, item) for item in flat]
    else:
        raise unimplemented(
            f"Input {alias}: JSON cannot be converted to "
            f"{DTYPE_NAMES.get(dtype, dtype)}"
        )
    return array.reshape(shape)


def _check_kinds(
    alias: str, kinds: set[type], expected: set[type], dtype: int
) -> None:
    wrong = sorted(kind.__name__ for kind in kinds - expected)
    if wrong:
        raise invalid_argument(
            f"Input {alias}: JSON value is not of expected type: "
            f"{DTYPE_NAMES[dtype]}. Received: {', '.join(wrong)}"
        )


def _decimals(
    alias: str, flat: list[Any], dtype: int, has_integers: bool
) -> np.ndarray:
    kind, exact = _DECIMALS[dtype]
    if has_integers and any(
        type(item) is int and abs(item) > exact for item in flat
    ):
        raise _loses(alias, dtype)
    wide = np.array(flat, np.float64)
    with np.errstate(over="ignore"):
        array: np.ndarray = wide.astype(kind, copy=False)
    if np.any(np.isinf(array) & np.isfinite(wide)):
        raise _loses(alias, dtype)
    return array


def _loses(alias: str, dtype: int) -> Exception:
    return invalid_argument(
        f"Input {alias}: a number cannot be converted to "
        f"{DTYPE_NAMES[dtype]} without loss of precision"
    )


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value: dict[str, Any]) -> bool:
    return value.keys() == {"b64"} and isinstance(value["b64"], str)


def _encoded(what: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise invalid_argument(f"{what}: half of a surrogate pair") from error


def _bytes(alias: str, value: Any) -> bytes:
    if isinstance(value, str):
        return _encoded(f"Input {alias}", value)
    if not _is_base64(value):
        raise invalid_argument(f'Input {alias}: expected {{"b64": "..."}}')
    text = "".join(value["b64"].split())
    if "=" not in text:
        text += "=" * (-len(text) % 4)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid_argument("Unable to base64 decode") from error


def _writable(outputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    if not outputs:
        raise invalid_argument("Cannot convert empty tensor map to JSON")
    return {name: _values(name, a) for name, a in sorted(outputs.items())}


def _values(name: str, array: np.ndarray) -> Any:
    """Converts an output to values that orjson can write."""
    if array.dtype.kind in "OSU":
        is_raw = name.endswith("_bytes")

        def text(value: Any) -> Any:
            raw = value if isinstance(value, bytes) else str(value).encode()
            if is_raw:
                return {"b64": base64.b64encode(raw).decode()}
            return raw.decode("utf-8", "surrogateescape")

        texts = np.empty(array.shape, object)
        texts.ravel()[:] = [text(item) for item in array.ravel().tolist()]
        return texts.tolist()
    if array.dtype == np.float16 or array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind not in "biuf":
        number = dtype_number(array)
        raise invalid_argument(
            f"Failed to write JSON value for tensor type: "
            f"{DTYPE_NAMES.get(number, number)}"
        )
    return np.ascontiguousarray(array) if array.ndim else array[()]


def _write(document: dict[str, Any]) -> bytes:
    if _is_finite(document):
        try:
            return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
        except orjson.JSONEncodeError:
            pass  # There are bytes that are not UTF-8.
    text = json.dumps(
        document, ensure_ascii=False, default=lambda array: array.tolist()
    )
    return text.encode("utf-8", "surrogateescape")


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    if isinstance(value, (np.ndarray, np.floating)):
        return value.dtype.kind != "f" or bool(np.isfinite(value).all())
    return True
