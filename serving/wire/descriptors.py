"""Message classes from a short notation, without generated code.

A mapping from message name to fields becomes classes in a private descriptor
pool: TensorFlow may have registered the same files in protobuf's default pool.
Both sets of classes then live in one process and have the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TYPES = {
    name.removeprefix("TYPE_").lower(): number
    for name, number in descriptor_pb2.FieldDescriptorProto.Type.items()
}
_OPTIONAL = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
_REPEATED = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED

Message = Mapping[str, str]
"""Fields of a message: name to `"[repeated] TYPE NUMBER [in ONEOF]"`.

TYPE is a scalar (`int64`), a message or enum of the same package (`.Name`),
a fully qualified one (`.package.Name`), or `map<KEY,VALUE>`.
"""

Enum = Mapping[str, int]


def build_messages(
    package: str,
    messages: Mapping[str, Message],
    enums: Mapping[str, Enum] | None = None,
    pool: descriptor_pool.DescriptorPool | None = None,
    dependencies: Sequence[str] = (),
    file_name: str = "",
) -> dict[str, Any]:
    """Makes message classes, by name.

    Args:
        package: protobuf package.
        messages: message name (`"Outer.Inner"` nests) to its fields, outer
            messages first.
        enums: enum name to its values; `"Outer.Inner"` nests too.
        pool: pool to add to; by default a new one.
        dependencies: files of that pool which the fields refer to.
        file_name: name of the file, unique in the pool.

    Raises:
        ValueError: a field is not written as described.
    """
    enums = enums or {}
    pool = pool or descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(
        name=file_name or package.replace(".", "/") + ".proto",
        package=package,
        syntax="proto3",
        dependency=list(dependencies),
    )
    protos: dict[str, Any] = {}
    for name, fields in messages.items():
        outer, _, inner = name.rpartition(".")
        siblings = protos[outer].nested_type if outer else file.message_type
        protos[name] = proto = siblings.add(name=inner)
        for field_name, text in fields.items():
            _add_field(proto, f"{package}.{name}", field_name, text, package)
    for name, values in enums.items():
        outer, _, inner = name.rpartition(".")
        enum = (protos[outer] if outer else file).enum_type.add(name=inner)
        for value_name, number in values.items():
            enum.value.add(name=value_name, number=number)
    enum_names = {f".{package}.{name}" for name in enums}
    for proto in protos.values():
        _mark_enums(proto, enum_names)
    pool.AddSerializedFile(file.SerializeToString())
    return {name: _class_of(pool, f"{package}.{name}") for name in messages}


def _add_field(
    proto: Any, scope: str, name: str, text: str, package: str
) -> None:
    words = text.split()
    field = proto.field.add(name=name, label=_OPTIONAL)
    if words[0] == "repeated":
        field.label = _REPEATED
        words = words[1:]
    if len(words) not in (2, 4) or not words[1].isdigit():
        raise ValueError(
            f"Field `{scope}.{name}` must be '[repeated] TYPE NUMBER "
            f"[in ONEOF]'. Received: {text!r}"
        )
    kind, field.number = words[0], int(words[1])
    if kind.startswith("map<"):
        key, _, value = kind[4:-1].partition(",")
        words = [part.capitalize() for part in name.split("_")]
        entry = proto.nested_type.add(name="".join([*words, "Entry"]))
        entry.options.map_entry = True
        _set_type(entry.field.add(name="key", number=1), key, package)
        _set_type(entry.field.add(name="value", number=2), value, package)
        for part in entry.field:
            part.label = _OPTIONAL
        field.label = _REPEATED
        field.type = _TYPES["message"]
        field.type_name = f".{scope}.{entry.name}"
        return
    _set_type(field, kind, package)
    if len(words) == 4:
        names = [oneof.name for oneof in proto.oneof_decl]
        if words[3] not in names:
            proto.oneof_decl.add(name=words[3])
            names.append(words[3])
        field.oneof_index = names.index(words[3])


def _set_type(field: Any, kind: str, package: str) -> None:
    if not kind.startswith("."):
        field.type = _TYPES[kind]
        return
    field.type = _TYPES["message"]
    outside = kind.startswith((".google.", ".tensorflow."))
    field.type_name = kind if outside else f".{package}{kind}"


def _mark_enums(proto: Any, enum_names: set[str]) -> None:
    for field in proto.field:
        if field.type_name in enum_names:
            field.type = _TYPES["enum"]
    for nested in proto.nested_type:
        _mark_enums(nested, enum_names)


def _class_of(pool: descriptor_pool.DescriptorPool, name: str) -> Any:
    descriptor = pool.FindMessageTypeByName(name)
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(pool).GetPrototype(descriptor)
