"""The kernels that this TensorFlow registers, and the kernel of a node."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import kernel_def_pb2, op_def_pb2
from tensorflow.core.framework.node_def_pb2 import NodeDef

from muse_keras.tensorflow import internals


def require_gpu_kernels() -> None:
    """Raise RuntimeError if this TensorFlow does not list GPU kernels."""
    if not any(kernel.device_type == "GPU" for kernel in _kernels("MatMul")):
        raise RuntimeError(
            f"TensorFlow {tf.__version__} lists no GPU kernels; install the "
            "`tensorflow` wheel for x86-64 Linux, which does."
        )


def _attr(proto: NodeDef, name: str) -> Any:
    """Return an attribute, or its default if the node does not store it."""
    if name in proto.attr:
        return proto.attr[name]
    definition = internals.op_definition(proto.op)
    for attr in definition.attr if definition else ():
        if attr.name == name:
            return attr.default_value
    raise ValueError(f"{proto.op} has no attribute {name!r}.")


def tensor_names(args: Iterable[Any], proto: NodeDef) -> list[str]:
    """Return the name of each tensor of a node's inputs or outputs."""
    names = []
    for arg in args:
        count = 1
        if arg.number_attr:
            count = int(_attr(proto, arg.number_attr).i)
        elif arg.type_list_attr:
            count = len(_attr(proto, arg.type_list_attr).list.type)
        names += [arg.name] * count
    return names


def _types(attribute: Any) -> list[int]:
    return list(attribute.list.type) or [attribute.type]


def dtypes_of(proto: NodeDef, definition: op_def_pb2.OpDef | None) -> str:
    """Return the types of a node's attributes, as `T=int64`."""
    found = []
    for attr in definition.attr if definition else ():
        if attr.type in ("type", "list(type)") and attr.name[0] != "_":
            types = filter(None, _types(_attr(proto, attr.name)))
            names = {tf.dtypes.as_dtype(one).name for one in types}
            found.append(f"{attr.name}={'+'.join(sorted(names))}")
    return " ".join(found)


def problem_of(
    proto: NodeDef, definition: op_def_pb2.OpDef, values: Sequence[bool]
) -> str:
    """Return why a node's values do not stay on a GPU, or nothing."""
    if "CPU" in proto.device.upper():
        return f"pinned to {proto.device}"
    kernel = _gpu_kernel(proto)
    if kernel is None:
        return "no GPU kernel"
    names = tensor_names(definition.input_arg, proto)
    carrying = {n for n, carries in zip(names, values, strict=True) if carries}
    resources = {
        arg.name
        for arg in definition.input_arg
        if arg.type == tf.resource.as_datatype_enum
    }
    outputs = {arg.name for arg in definition.output_arg}
    on_host = set(kernel.host_memory_arg) & (carrying - resources | outputs)
    if on_host:
        listed = ", ".join(sorted(on_host))
        return f"its GPU kernel keeps {listed} on the host"
    return ""


def _gpu_kernel(proto: NodeDef) -> kernel_def_pb2.KernelDef | None:
    # DEFAULT kernels serve every device without a kernel of its own.
    for device in ("GPU", "DEFAULT"):
        for kernel in _kernels(proto.op):
            fits = kernel.device_type == device and not kernel.label
            if fits and allows(kernel, proto):
                return kernel
    return None


# Cached, since it is called for every node.
_kernels = functools.cache(internals.registered_kernels)


def allows(kernel: kernel_def_pb2.KernelDef, proto: NodeDef) -> bool:
    """Return whether a kernel supports the attributes of a node.

    Most constraints are on dtypes; TensorFlow 2.21 also has some on strings,
    such as `bad_indices_policy` of `GatherNd`.
    """
    for constraint in kernel.constraint:
        allowed = constraint.allowed_values.list
        value = _attr(proto, constraint.name)
        if allowed.s:
            if value.s not in allowed.s:
                return False
        elif not set(_types(value)) <= set(allowed.type):
            return False
    return True
