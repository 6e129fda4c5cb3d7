"""JSON requests to arrays, by the types that the signature declares.

Rules and texts of errors are those of TF Serving's json_tensor.cc. Lists of
one type and even length, which is nearly all of them, are converted whole;
only when that is not possible, each value is looked at, to find the one that
TF Serving would name.

Long lists of integers do not even become Python objects (`integer_lists`).
That way answers good requests only: whatever it refuses is read once more
without it, and what that finds is the answer.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import orjson

from serving.client.tensors import DTYPE_NAMES
from serving.server.errors import (
    ServingError,
    invalid_argument,
    unimplemented,
)
from serving.server.integer_lists import cut_integer_lists, put_back
from serving.server.json_parser import parse_json
from serving.server.json_writer import decimal_text, pretty

__all__ = ["PredictBody", "read_examples_body", "read_predict_body"]

_FLOAT, _DOUBLE, _STRING, _BOOL = 1, 2, 7, 10
_INTEGERS: dict[int, tuple[type, int, int]] = {
    # dtype, and the range that the parser accepts: 32 bits for small ones.
    3: (np.int32, -(2**31), 2**31 - 1),
    4: (np.uint8, -(2**31), 2**31 - 1),
    5: (np.int16, -(2**31), 2**31 - 1),
    6: (np.int8, -(2**31), 2**31 - 1),
    9: (np.int64, -(2**63), 2**63 - 1),
    22: (np.uint32, 0, 2**32 - 1),
    23: (np.uint64, 0, 2**64 - 1),
}
_DECIMALS: dict[int, tuple[type, int]] = {
    # dtype, and the largest exact integer.
    _FLOAT: (np.float32, 2**24 - 1),
    _DOUBLE: (np.float64, 2**53 - 1),
}

_MAX_RANK = 32  # of NumPy 1 arrays


@dataclasses.dataclass(frozen=True)
class PredictBody:
    """A parsed predict request.

    Attributes:
        signature_name: as sent; may be empty.
        inputs: alias to array.
        row_form: whether it came as `instances`.
    """

    signature_name: str
    inputs: dict[str, np.ndarray]
    row_form: bool


def read_predict_body(
    body: bytes, inputs_of: Callable[[str], Mapping[str, Any]]
) -> PredictBody:
    """Reads the body of a predict call.

    Args:
        body: JSON text.
        inputs_of: gives the `TensorInfo`s of the inputs of a signature, or
            raises.

    Raises:
        ServingError: the body does not fit the signature.
    """
    text, lists = cut_integer_lists(body)
    if lists:
        try:
            document, put = put_back(orjson.loads(text), lists)
            if put == len(lists):
                return _read_document(document, inputs_of)
        except (ServingError, orjson.JSONDecodeError, RecursionError):
            pass
    return _read_document(parse_json(body), inputs_of)


def _read_document(
    document: Any, inputs_of: Callable[[str], Mapping[str, Any]]
) -> PredictBody:
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {_text(document)} Is not object")
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_argument(
            f"JSON Value: {_text(document)} not formatted correctly. "
            f"'signature_name' key must be a string value."
        )
    infos = inputs_of(name)
    if not infos:
        raise invalid_argument(
            f"Failed to get input map for signature: {name or 'DEFAULT'}"
        )
    if "instances" in document and "inputs" in document:
        raise invalid_argument(
            f"JSON Value: {_text(document)} Not formatted correctly expecting "
            f"only one of 'inputs' or 'instances' keys to exist "
        )
    if "instances" in document:
        rows = document["instances"]
        if not isinstance(rows, list):
            raise invalid_argument(
                f"JSON Value: {_text(document)} Excepting 'instances' to be "
                f"an list/array"
            )
        if not rows:
            raise invalid_argument(
                f"JSON Value: {_text(document)} No values in 'instances' array"
            )
        return PredictBody(name, _from_rows(rows, infos), True)
    if "inputs" in document:
        return PredictBody(
            name, _from_columns(document["inputs"], infos), False
        )
    raise invalid_argument("Missing 'inputs' or 'instances' key")


def read_examples_body(body: bytes, request: Any) -> None:
    """Reads the body of a classify or regress call into a request.

    Args:
        body: JSON text.
        request: an empty ClassificationRequest or RegressionRequest, whose
            model_spec.signature_name and input are filled.

    Raises:
        ServingError: the body is not as it should be.
    """
    document = parse_json(body)
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {_text(document)} Is not object")
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_argument(
            f"JSON Value: {_text(document)} not formatted correctly. "
            f"'signature_name' key must be a string value."
        )
    request.model_spec.signature_name = name
    target = request.input.example_list
    if "context" in document:
        target = request.input.example_list_with_context
        _fill_example(document["context"], target.context)
    if "examples" not in document:
        raise invalid_argument(
            f"JSON Value: {_text(document)} When method is classify, key "
            f"'examples' is expected and was not found"
        )
    examples = document["examples"]
    if not isinstance(examples, list):
        raise invalid_argument(
            f"JSON Value: {_text(document)} Expecting 'examples' value to be "
            f"an list/array"
        )
    if not examples:
        raise invalid_argument(
            f"JSON Value: {_text(document)} 'examples' value is an empty array"
        )
    for example in examples:
        _fill_example(example, target.examples.add())


def _fill_example(value: Any, example: Any) -> None:
    if not isinstance(value, dict):
        raise invalid_argument(
            f"Example must be JSON object but got JSON {_type_name(value)}"
        )
    for name, content in value.items():
        feature = example.features.feature[name]
        items = content if isinstance(content, list) else [content]
        for item in items:
            _add_to_feature(item, name, feature)


def _add_to_feature(item: Any, name: str, feature: Any) -> None:
    if isinstance(item, bool):
        kind, item = "int64_list", int(item)
    elif isinstance(item, int):
        kind = "int64_list"
        if item > 2**63 - 1:
            raise invalid_argument(
                f"Feature: {name} has uint64 element. Only int64 is supported."
            )
    elif isinstance(item, float):
        kind = "float_list"
        item = _decimal(item, _FLOAT)
    elif isinstance(item, str):
        kind, item = "bytes_list", item.encode()
    elif _is_base64(item):
        kind, item = "bytes_list", _base64_bytes(item)
    else:
        raise invalid_argument(
            f"Feature: {name} has element with unexpected JSON type: "
            f"{_type_name(item)}"
        )
    present = feature.WhichOneof("kind")
    if present not in (None, kind):
        raise invalid_argument(
            f"Unexpected element type in feature: {name} expecting type: "
            f"{present.removesuffix('_list')}"
        )
    getattr(feature, kind).value.append(item)


def _from_rows(
    rows: list[Any], infos: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    if not isinstance(rows[0], dict) and len(infos) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as "
            "multiple input tensors required as per tensorinfo_map"
        )
    if _is_plain_object(rows[0]):
        return _from_object_rows(rows, infos)
    for index, row in enumerate(rows):
        if _is_plain_object(row):
            raise invalid_argument(
                f"Expecting value/list but got object at item {index} of "
                f"input list"
            )
    ((name, info),) = infos.items()
    whole = _convert_whole(rows, info.dtype)
    if whole is not None:
        return {name: whole}
    parts: list[np.ndarray] = []
    for index, row in enumerate(rows):
        try:
            parts.append(_convert(row, info.dtype))
            _same_shape(parts)
        except ServingError as error:
            raise invalid_argument(
                f"Failed to process element: {index} of 'instances' list. "
                f"Error: {error}"
            ) from None
    return {name: np.stack(parts)}


def _from_object_rows(
    rows: list[Any], infos: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    names = set(infos)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for index, row in enumerate(rows):
        if not _is_plain_object(row):
            raise invalid_argument(
                f"Expecting object but got list at item {index} of input list"
            )
        for name, value in row.items():
            try:
                if name not in names:
                    raise invalid_argument(
                        f"JSON object: does not have named input: {name}"
                    )
                parts[name].append(_convert(value, infos[name].dtype))
                _same_shape(parts[name])
            except ServingError as error:
                raise invalid_argument(
                    f"Failed to process element: {index} key: {name} of "
                    f"'instances' list. Error: {error}"
                ) from None
        if set(row) != names:
            raise invalid_argument(
                f"Failed to process element: {index} of 'instances' list. "
                f"JSON object: {_text(row)} keys must be equal to: "
                f"{','.join(sorted(names))}"
            )
    return {name: np.stack(arrays) for name, arrays in parts.items()}


def _same_shape(parts: list[np.ndarray]) -> None:
    first, last = parts[0], parts[-1]
    if first.size != last.size:
        raise invalid_argument(
            f"Expecting tensor size: {first.size} but got: {last.size}"
        )
    if first.shape != last.shape:
        raise invalid_argument(
            f"Expecting shape {_shape(first)} but got: {_shape(last)}"
        )


def _from_columns(
    value: Any, infos: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    if not _is_plain_object(value):
        if len(infos) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as "
                "multiple input tensors required as per tensorinfo_map"
            )
        ((name, info),) = infos.items()
        return {name: _convert(value, info.dtype)}
    arrays = {}
    for name, info in sorted(infos.items()):
        if name not in value:
            raise invalid_argument(
                f"Missing named input: {name} in 'inputs' object."
            )
        arrays[name] = _convert(value[name], info.dtype)
    return arrays


def _convert(value: Any, dtype: int) -> np.ndarray:
    """One JSON value to an array of a declared type."""
    whole = _convert_whole(value, dtype)
    if whole is not None:
        return whole
    shape = _dense_shape(value)
    if len(shape) > _MAX_RANK:
        raise invalid_argument(
            f"Encountered list at unexpected level: {_MAX_RANK} expected < "
            f"{_MAX_RANK}"
        )
    flat: list[Any] = []
    _fill(value, 0, shape, dtype, flat)
    if dtype == _STRING:
        array = np.empty(len(flat), object)
        array[:] = flat
    else:
        array = _cast(flat, dtype)
    return array.reshape(shape)


def _convert_whole(value: Any, dtype: int) -> np.ndarray | None:
    """Converts without looking at single values; None if that is not safe."""
    if isinstance(value, np.ndarray):
        return _from_integers(value, dtype)
    if not isinstance(value, list):
        return None
    shape = _dense_shape(value)
    if len(shape) > _MAX_RANK:
        return None
    flat: list[Any] = [value]
    for size in shape:
        kinds = set(map(type, flat))
        if np.ndarray in kinds:
            return _stacked(value, dtype)
        if kinds != {list} or set(map(len, flat)) != {size}:
            return None
        flat = list(itertools.chain.from_iterable(flat))
    kinds = set(map(type, flat))
    if np.ndarray in kinds:
        return _stacked(value, dtype)
    if dtype in _INTEGERS and kinds <= {int}:
        _, low, high = _INTEGERS[dtype]
        if flat and not low <= min(flat) <= max(flat) <= high:
            return None
    elif dtype in _DECIMALS and kinds <= {float, int}:
        _, exact = _DECIMALS[dtype]
        if int in kinds and any(
            type(v) is int and abs(v) > exact for v in flat
        ):
            return None
        if dtype == _FLOAT and float in kinds:
            wide = np.array(flat, np.float64)
            finite = wide[np.isfinite(wide)]
            if finite.size and np.abs(finite).max() > _FLOAT_MAX:
                return None
    elif dtype == _STRING and kinds <= {str}:
        array = np.empty(len(flat), object)
        array[:] = [v.encode() for v in flat]
        return array.reshape(shape)
    elif not (dtype == _BOOL and kinds <= {bool}):
        return None
    return _cast(flat, dtype).reshape(shape)


def _from_integers(values: np.ndarray, dtype: int) -> np.ndarray:
    """int64 values to a declared type that holds each of them exactly."""
    if dtype in _INTEGERS:
        kind, low, high = _INTEGERS[dtype]
    elif dtype in _DECIMALS:
        kind, high = _DECIMALS[dtype]
        low = -high
    else:
        raise invalid_argument(f"integers for type {_dtype_name(dtype)}")
    if values.min() < low or values.max() > high:
        raise invalid_argument(f"integers beyond {_dtype_name(dtype)}")
    return values.astype(kind, copy=False)


def _stacked(rows: list[Any], dtype: int) -> np.ndarray:
    """Rows of which some are arrays already."""
    parts = [_convert(row, dtype) for row in rows]
    if len({part.shape for part in parts}) > 1:
        raise invalid_argument("rows of different shapes")
    return parts[0][np.newaxis] if len(parts) == 1 else np.stack(parts)


_FLOAT_MAX = float(np.finfo(np.float32).max)


def _cast(flat: list[Any], dtype: int) -> np.ndarray:
    if dtype in _INTEGERS:
        kind, low, _ = _INTEGERS[dtype]
        wide = np.array(flat, np.uint64 if low == 0 else np.int64)
        return wide.astype(kind, copy=False)
    if dtype in _DECIMALS:
        return np.array(flat, _DECIMALS[dtype][0])
    return np.array(flat, np.bool_)


def _dense_shape(value: Any) -> tuple[int, ...]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _fill(
    value: Any, level: int, shape: tuple[int, ...], dtype: int, out: list[Any]
) -> None:
    rank = len(shape)
    if not isinstance(value, list):
        if level != rank:
            raise invalid_argument(
                f"JSON Value: {_text(value)} found at incorrect level: "
                f"{level + 1} in the JSON DOM. Expected at level: {rank}"
            )
        out.append(_scalar(value, dtype))
        return
    if level >= rank:
        raise invalid_argument(
            f"Encountered list at unexpected level: {level} expected < {rank}"
        )
    if len(value) != shape[level]:
        raise invalid_argument(
            f"Encountered list at unexpected size: {len(value)} at level: "
            f"{level} expected size: {shape[level]}"
        )
    for item in value:
        _fill(item, level + 1, shape, dtype, out)


def _scalar(value: Any, dtype: int) -> Any:
    if isinstance(value, dict):
        if dtype == _STRING:
            return _base64_bytes(value)
        raise _type_error(value, dtype)
    if dtype in _INTEGERS:
        _, low, high = _INTEGERS[dtype]
        if type(value) is not int or not low <= value <= high:
            raise _type_error(value, dtype)
        return value
    if dtype in _DECIMALS:
        return _decimal(value, dtype)
    if dtype == _STRING:
        if not isinstance(value, str):
            raise _type_error(value, dtype)
        return value.encode()
    if dtype == _BOOL:
        if not isinstance(value, bool):
            raise _type_error(value, dtype)
        return value
    raise unimplemented(
        f"Conversion of JSON Value: {_text(value)} to type: "
        f"{_dtype_name(dtype)}"
    )


def _decimal(value: Any, dtype: int) -> float:
    if type(value) not in (int, float):
        raise _type_error(value, dtype)
    _, exact = _DECIMALS[dtype]
    if isinstance(value, int):
        lossless = abs(value) <= exact
    elif dtype == _FLOAT and math.isfinite(value):
        lossless = abs(value) <= _FLOAT_MAX
    else:
        lossless = True
    if not lossless:
        raise invalid_argument(
            f"Cannot convert JSON value: {_text(value)} to "
            f"{_dtype_name(dtype)} without loss of precision."
        )
    return value


def _is_base64(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) == 1
        and isinstance(value.get("b64"), str)
    )


def _is_plain_object(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _base64_bytes(value: Any) -> bytes:
    if not _is_base64(value):
        raise invalid_argument(
            f"JSON Value: {_text(value)} not formatted correctly for base64 "
            f"data"
        )
    text = "".join(value["b64"].split())
    padded = text + "=" * (-len(text.rstrip("=")) % 4)
    padded = padded if "=" not in text else text
    try:
        return base64.b64decode(padded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid_argument("Unable to base64 decode") from error


def _type_error(value: Any, dtype: int) -> ServingError:
    return invalid_argument(
        f"JSON Value: {_text(value)} Type: {_type_name(value)} is not of "
        f"expected type: {_dtype_name(dtype)}"
    )


def _type_name(value: Any) -> str:
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, dict):
        return "Object"
    if isinstance(value, list):
        return "Array"
    return "String" if isinstance(value, str) else "Number"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return decimal_text(np.float64(value), np.dtype(np.float64))
    return pretty(value)


def _dtype_name(dtype: int) -> str:
    return DTYPE_NAMES.get(dtype, f"unknown dtype enum ({dtype})")


def _shape(array: np.ndarray) -> str:
    return "[" + ",".join(str(size) for size in array.shape) + "]"
