"""Reads .proto files, so that no generated code is needed."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    name.removeprefix("TYPE_").lower(): number
    for name, number in _Field.Type.items()
    if name not in ("TYPE_MESSAGE", "TYPE_ENUM", "TYPE_GROUP")
}
_TOKEN = re.compile(r'//[^\n]*|"[^"]*"|[\w.]+|\S')


def read_proto(path: pathlib.Path) -> Any:
    """Returns the `FileDescriptorProto` of a proto3 file.

    It supports messages, enums, fields, maps and oneofs, without options, and
    skips services and comments.

    Raises:
        ValueError: the file has other elements.
    """
    text = path.read_text(encoding="utf-8")
    tokens = (t for t in _TOKEN.findall(text) if not t.startswith("//"))
    file = descriptor_pb2.FileDescriptorProto(name=path.name, syntax="proto3")
    try:
        for word in tokens:
            if word == "package":
                file.package = next(tokens)
            elif word == "import":
                file.dependency.append(next(tokens).strip('"'))
            elif word == "service":
                _skip_block(tokens)
            elif word in ("message", "enum"):
                _read_type(word, tokens, file.message_type, file.enum_type)
            elif word == "syntax":
                _expect("=", tokens)
                _expect('"proto3"', tokens)
            elif word != ";":
                raise ValueError(f"received {word!r}")
    except (KeyError, ValueError, StopIteration) as error:
        raise ValueError(
            f"{path} must be proto3 without options: "
            f"{str(error) or 'it ends too early'}"
        ) from error
    return file


def _skip_block(tokens: Iterator[str]) -> None:
    depth = 0
    for word in tokens:
        depth += (word == "{") - (word == "}")
        if word == "}" and not depth:
            return


def _read_type(
    kind: str, tokens: Iterator[str], messages: Any, enums: Any
) -> None:
    name = next(tokens)
    _expect("{", tokens)
    if kind == "message":
        _read_message(tokens, messages.add(name=name))
        return
    enum = enums.add(name=name)
    while (value := next(tokens)) != "}":
        _expect("=", tokens)
        enum.value.add(name=value, number=int(next(tokens)))
        _expect(";", tokens)


def _read_message(tokens: Iterator[str], message: Any) -> None:
    oneof: int | None = None
    while (word := next(tokens)) != "}" or oneof is not None:
        if word == "}":
            oneof = None
        elif word in ("message", "enum"):
            _read_type(word, tokens, message.nested_type, message.enum_type)
        elif word == "oneof":
            oneof = len(message.oneof_decl)
            message.oneof_decl.add(name=next(tokens))
            _expect("{", tokens)
        else:
            field = _read_field(word, tokens, message)
            if oneof is not None:
                field.oneof_index = oneof


def _read_field(word: str, tokens: Iterator[str], message: Any) -> Any:
    repeated = word in ("repeated", "map")
    field = message.field.add(
        label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    )
    if word == "map":
        _, key, _, value, _ = (next(tokens) for _ in range(5))
        field.name = next(tokens)
        entry = message.nested_type.add(
            name=field.name.title().replace("_", "") + "Entry"
        )
        entry.options.map_entry = True
        for number, (part, kind) in enumerate(
            (("key", key), ("value", value)), 1
        ):
            _set_type(
                entry.field.add(
                    name=part, number=number, label=_Field.LABEL_OPTIONAL
                ),
                kind,
            )
        field.type_name = entry.name
    else:
        _set_type(field, next(tokens) if repeated else word)
        field.name = next(tokens)
    _expect("=", tokens)
    field.number = int(next(tokens))
    _expect(";", tokens)
    return field


def _set_type(field: Any, kind: str) -> None:
    """Sets a scalar type; protobuf resolves other names."""
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type_name = kind


def _expect(wanted: str, tokens: Iterator[str]) -> None:
    if (found := next(tokens)) != wanted:
        raise ValueError(f"expected {wanted!r}, received {found!r}")
