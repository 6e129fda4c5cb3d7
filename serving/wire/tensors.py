"""Converts NumPy arrays to `TensorProto` and back.

The class may be the client's own or TensorFlow's: any class with the fields of
`tensorflow.TensorProto`. Numbers are stored in `tensor_content` as raw bytes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

DT_HALF, DT_BFLOAT16, DT_STRING = 19, 14, 7

_TYPES: dict[int, tuple[str, Any, str]] = {
    1: ("float", np.float32, "float_val"),
    2: ("double", np.float64, "double_val"),
    3: ("int32", np.int32, "int_val"),
    4: ("uint8", np.uint8, "int_val"),
    5: ("int16", np.int16, "int_val"),
    6: ("int8", np.int8, "int_val"),
    9: ("int64", np.int64, "int64_val"),
    10: ("bool", np.bool_, "bool_val"),
    17: ("uint16", np.uint16, "int_val"),
    DT_HALF: ("half", np.float16, "half_val"),
    22: ("uint32", np.uint32, "uint32_val"),
    23: ("uint64", np.uint64, "uint64_val"),
}
DTYPE_NAMES = {
    DT_STRING: "string",
    DT_BFLOAT16: "bfloat16",
    **{number: name for number, (name, _, _) in _TYPES.items()},
}
"""`DataType` number to TensorFlow's name of the type."""
_NUMBERS = {np.dtype(kind): number for number, (_, kind, _) in _TYPES.items()}
# float_val and double_val are packed little-endian values: tag, length, raw.
_PACKED_TAGS = {1: b"\x2a", 2: b"\x32"}


class TensorError(ValueError):
    """A tensor cannot be converted; `field` is its alias, if known."""

    field: str = ""


def dtype_number(array: np.ndarray) -> int:
    """Returns the `DataType` number of an array; objects are strings."""
    if array.dtype.kind in "OSU":
        return DT_STRING
    number = _NUMBERS.get(array.dtype.newbyteorder("="))
    if number is None:
        if array.dtype.name == "bfloat16":
            return DT_BFLOAT16
        raise TensorError(f"no tensor type for arrays of {array.dtype}")
    return number


def fill_proto(proto: Any, array: np.ndarray, *, content: bool = True) -> None:
    """Writes an array into an empty message.

    Without `content`, the typed fields are written, as in answers of TensorFlow
    Serving.
    """
    number = fill_shape(proto, array)
    if number == DT_STRING:
        proto.string_val.extend(_as_bytes(v) for v in array.ravel().tolist())
        return
    if content:
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        proto.tensor_content = little.tobytes()
        return
    if number in _PACKED_TAGS:
        if array.size:
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            raw = little.tobytes()
            proto.MergeFromString(_PACKED_TAGS[number] + varint(len(raw)) + raw)
        return
    if number in (DT_HALF, DT_BFLOAT16):
        values = np.ascontiguousarray(array).view(np.uint16).ravel()
        proto.half_val.extend(values.tolist())
        return
    getattr(proto, _TYPES[number][2]).extend(array.ravel().tolist())


def fill_shape(proto: Any, array: np.ndarray) -> int:
    """Writes type and shape into an empty message; returns `dtype_number`."""
    proto.dtype = dtype_number(array)
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    return proto.dtype


def array_from_proto(proto: Any) -> np.ndarray:
    """Reads an array from a message.

    Numbers in `tensor_content` are not copied, so the array is read-only. If
    there are fewer typed values than elements, the last value is repeated; no
    values mean zeros, as in TensorFlow. Strings become objects (`bytes`).
    """
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if any(size < 0 for size in shape):
        raise TensorError(f"negative size in shape {list(shape)}")
    size = math.prod(shape)
    if proto.dtype == DT_STRING:
        return _strings(proto, shape, size)
    if proto.dtype == DT_BFLOAT16:
        return _bfloat16(proto, shape, size)
    if proto.dtype not in _TYPES:
        name = DTYPE_NAMES.get(proto.dtype, f"number {proto.dtype}")
        raise TensorError(f"tensors of type {name} are not supported")
    _, dtype, field = _TYPES[proto.dtype]
    content = proto.tensor_content
    if content:
        return _from_content(content, np.dtype(dtype), shape, size)
    values = getattr(proto, field)
    if proto.dtype == DT_HALF:
        return _padded(values, np.uint16, size).view(np.float16).reshape(shape)
    return _padded(values, dtype, size).reshape(shape)


def _from_content(
    content: bytes, dtype: np.dtype, shape: tuple[int, ...], size: int
) -> np.ndarray:
    if len(content) != size * dtype.itemsize:
        raise TensorError(
            f"{len(content)} bytes of content for shape {list(shape)}, "
            f"which needs {size * dtype.itemsize}"
        )
    little = np.frombuffer(content, dtype.newbyteorder("<"))
    return little.astype(dtype, copy=False).reshape(shape)


def _padded(values: Any, dtype: Any, size: int) -> np.ndarray:
    count = len(values)
    if count > size:
        raise TensorError(f"{count} values for {size} elements")
    if count == 0:
        return np.zeros(size, dtype)
    # For numbers above and below 2^63, NumPy itself would choose float64.
    kind = dtype if dtype is np.uint64 else None
    array = np.array(values, kind).astype(dtype, copy=False)
    return np.pad(array, (0, size - count), "edge") if count < size else array


def _bfloat16(proto: Any, shape: tuple[int, ...], size: int) -> np.ndarray:
    try:
        import ml_dtypes
    except ImportError as error:
        raise TensorError("bfloat16 needs the package ml_dtypes") from error
    if proto.tensor_content:
        bits = _from_content(
            proto.tensor_content, np.dtype(np.uint16), shape, size
        )
    else:
        bits = _padded(proto.half_val, np.uint16, size).reshape(shape)
    return bits.view(ml_dtypes.bfloat16)


def _strings(proto: Any, shape: tuple[int, ...], size: int) -> np.ndarray:
    values = list(proto.string_val)
    if len(values) > size:
        raise TensorError(f"{len(values)} values for {size} elements")
    if proto.tensor_content:
        raise TensorError("strings in tensor_content are not supported")
    values += [values[-1] if values else b""] * (size - len(values))
    array = np.empty(size, object)
    array[:] = values
    return array.reshape(shape)


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise TensorError(f"a string tensor cannot hold {type(value).__name__}")


def varint(value: int) -> bytes:
    """Serializes a number as protobuf serializes lengths."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
