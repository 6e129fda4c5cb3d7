"""Serializes and parses PredictRequests without copying tensors.

A message object copies a tensor when it is set, serialized and parsed. Almost
all bytes of a request are `tensor_content`. Therefore serializing joins the
memory of the arrays with the few bytes between them, and parsing returns views
of the contents and lets protobuf parse the other bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from serving.wire import messages
from serving.wire.tensors import (
    DT_STRING,
    TensorError,
    dtype_number,
    fill_proto,
    fill_shape,
    varint,
)

# Tags: field number and wire type 2, a length and that many bytes.
_INPUTS, _KEY, _VALUE, _CONTENT = b"\x12", b"\x0a", b"\x12", b"\x22"
_LARGE = 4096  # Bytes of content from which views are faster.
_MOST_FIELDS = 256  # Per message; protobuf parses messages with more.


class TensorView:
    """A TensorProto whose content is a view of the request's bytes."""

    __slots__ = ("_head", "tensor_content")

    def __init__(self, head: Any, content: memoryview) -> None:
        self._head = head
        self.tensor_content = content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._head, name)


class PredictView:
    """A PredictRequest whose large tensors are `TensorView`s."""

    def __init__(self, rest: Any, large: Mapping[str, TensorView]) -> None:
        self._rest = rest
        self.inputs: dict[str, Any] = {**rest.inputs, **large}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rest, name)


def write_predict(
    head: Any,
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str] = (),
) -> bytes:
    """Serializes a PredictRequest; `head` only has the model.

    Raises `TensorError` with the alias if TensorFlow has no type for an array.
    """
    parts: list[Any] = [head.SerializeToString()]
    for name, array in inputs.items():
        try:
            tensor = _tensor_parts(np.asarray(array))
        except TensorError as error:
            error.field = name
            raise
        key = name.encode()
        size = sum(map(len, tensor))
        entry = (
            _KEY + varint(len(key)) + key + _VALUE + varint(size) + tensor[0]
        )
        length = len(entry) + sum(map(len, tensor[1:]))
        parts += [_INPUTS + varint(length) + entry, *tensor[1:]]
    tail = type(head)(output_filter=outputs)
    return b"".join([*parts, tail.SerializeToString()])


def read_predict(raw: bytes, request_class: Any) -> Any:
    """Parses a PredictRequest as a `PredictView` or a `request_class`.

    Protobuf parses small tensors and all unusual requests.
    """
    try:
        return _cut(raw, request_class)
    except (_UnusualError, DecodeError, IndexError, ValueError):
        return request_class.FromString(raw)


class _UnusualError(Exception):
    """Only protobuf can parse these bytes."""


def _cut(raw: bytes, request_class: Any) -> Any:
    view = memoryview(raw)
    large: dict[str, TensorView] = {}
    rest = []
    for tag, start, body, end in _fields(raw, 0, len(raw)):
        if tag == _INPUTS[0] and end - body > _LARGE:
            name, tensor = _entry(raw, view, body, end)
            if tensor is not None:
                if name in large:
                    raise _UnusualError
                large[name] = tensor
                continue
        rest.append(view[start:end])
    request = request_class.FromString(b"".join(rest))
    if any(name in request.inputs for name in large):
        raise _UnusualError
    return PredictView(request, large)


def _entry(
    raw: bytes, view: memoryview, start: int, end: int
) -> tuple[str, TensorView | None]:
    """Parses one entry of `inputs`; returns None if its content is small."""
    (key, _, name, name_end), (value, _, body, value_end) = _fields(
        raw, start, end
    )
    if (key, value) != (_KEY[0], _VALUE[0]):
        raise _UnusualError
    content = None
    for tag, first, inner, last in _fields(raw, body, value_end):
        if tag == _CONTENT[0]:
            if content is not None:
                raise _UnusualError
            content = first, inner, last
    alias = raw[name:name_end].decode()
    if content is None or content[2] - content[1] < _LARGE:
        return alias, None
    first, inner, last = content
    head = messages.TensorProto.FromString(
        raw[body:first] + raw[last:value_end]
    )
    return alias, TensorView(head, view[inner:last])


def _fields(
    raw: bytes, at: int, end: int
) -> Iterator[tuple[int, int, int, int]]:
    """Yields tag, start, start of the value and end of each field."""
    count = 0
    while at < end:
        start = at
        tag, at = _read_varint(raw, at)
        kind = tag & 7
        body = at
        if kind == 0:
            _, at = _read_varint(raw, at)
        elif kind == 1:
            at += 8
        elif kind == 2:
            size, body = _read_varint(raw, at)
            at = body + size
        elif kind == 5:
            at += 4
        else:
            raise _UnusualError
        count += 1
        if at > end or count > _MOST_FIELDS:
            raise _UnusualError
        yield tag, start, body, at


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise _UnusualError


def _tensor_parts(array: np.ndarray) -> list[Any]:
    """Returns the bytes of a TensorProto in parts, the content separately."""
    proto = messages.TensorProto()
    if dtype_number(array) == DT_STRING or array.size == 0:
        fill_proto(proto, array)
        return [proto.SerializeToString()]
    fill_shape(proto, array)
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    content = little.reshape(-1).view(np.uint8).data
    head = proto.SerializeToString() + _CONTENT + varint(content.nbytes)
    return [head, content]
