"""Proof, on a machine without a GPU, that a signature can run on one.

TensorFlow places an op without a GPU kernel on the host without a word, and
the ids and vectors then travel back and forth. The wheel for Linux lists the
kernels of every device, so that placement can be checked anywhere: the report
walks the saved graph of a signature, through all nested functions, and looks
up the kernel of each op for its dtypes.

The rule. An op is on the *data path* if a result depends on it and it depends
on a value: of a request's tensor or of a variable. Each must have a GPU kernel
for its dtypes that keeps those values in device memory (many int32 kernels are
registered for the GPU but compute on the host), and no op may be pinned to a
CPU. Not on the data path, and host ops by design, are

- *metadata*: what depends on constants and on the shapes of tensors alone
  (`Shape`, arithmetic on sizes, ranges), never on their values;
- *wait*: a loop that the host ends by reading one bool from the device. The
  search until its result is proven is one, and no other may be;
- *control*: what no result depends on, such as assertions. An assertion must
  look at shapes alone: if it depends on a value, it is a violation as well,
  since the host would wait for the device.
"""

import dataclasses
import functools
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import kernel_def_pb2, node_def_pb2, op_def_pb2
from tensorflow.core.protobuf import saved_model_pb2

from muse_keras.tensorflow import internals

DATA = "data"
METADATA = "metadata"
CONTROL = "control"
WAIT = "wait"

_CALLS = {"PartitionedCall": "f", "StatefulPartitionedCall": "f"}
_BRANCHES = {"If", "StatelessIf", "Case", "StatelessCase"}
_LOOPS = {"While", "StatelessWhile"}
# The loop of `muse_keras.tensorflow.code_search`.
_WAITING_LOOP = "until_proven"
_SHAPES = {"Shape", "ShapeN", "Size", "Rank", "VariableShape"}
# Forward their input; removed or aliased when functions are inlined.
_FORWARDING = {"Identity", "IdentityN", "StopGradient", "PreventGradient"}
# Look at the shape of what they forward.
_SHAPE_CHECKS = {"EnsureShape"}
_SOURCES = {"Placeholder", "PlaceholderWithDefault", "VarHandleOp", "_Arg"}
# Makes the state of a random generator out of seeds, on the host; what is
# drawn from it is data.
_SEEDS = {"StatelessRandomGetKeyCounter"}
_DRAWS = {"StatelessRandomUniformV2"}


@dataclasses.dataclass(frozen=True)
class OpUse:
    """How one kind of op is used by a signature.

    Attributes:
        op: name of the op.
        dtypes: its type attributes, such as `T=int8`.
        kind: `data`, `metadata`, `wait` or `control`.
        problem: why it does not run on a GPU; empty if it does.
        count: number of such nodes.
        example: function and node name of the first one.
    """

    op: str
    dtypes: str
    kind: str
    problem: str
    count: int
    example: str


@dataclasses.dataclass(frozen=True)
class KernelReport:
    """What a signature needs of a GPU.

    Attributes:
        path: the SavedModel.
        signature: name of the signature.
        uses: every kind of op, violations first.
    """

    path: str
    signature: str
    uses: Sequence[OpUse]

    @property
    def violations(self) -> list[OpUse]:
        """Ops on the data path, or waiting for it, that stay on the host."""
        return [
            use
            for use in self.uses
            if use.problem and use.kind not in (METADATA, WAIT)
        ]

    @property
    def passed(self) -> bool:
        """Whether everything between the inputs and the scores has a kernel."""
        return not self.violations

    def count(self, kind: str) -> int:
        """Return the number of nodes of a kind."""
        return sum(use.count for use in self.uses if use.kind == kind)

    def __str__(self) -> str:
        """Return a table for people."""
        verdict = "passed" if self.passed else "FAILED"
        lines = [
            f"GPU kernels of signature {self.signature!r} in TensorFlow "
            f"{tf.__version__}: {verdict}. "
            f"{self.count(DATA)} ops on the data path, "
            f"{self.count(METADATA)} on shapes and constants, "
            f"{self.count(CONTROL)} for control."
        ]
        for use in self.uses:
            state = use.problem or "ok"
            lines.append(
                f"  {use.kind:8} {use.count:4} x {use.op} [{use.dtypes}] "
                f"{state} ({use.example})"
            )
        return "\n".join(lines)


def kernel_report(
    path: str | os.PathLike[str], signature: str = "rank"
) -> KernelReport:
    """Check that a signature's data path has GPU kernels.

    Reads the graph alone; the variables are not loaded.

    Args:
        path: folder of a SavedModel.
        signature: name of the signature.

    Returns:
        `KernelReport`.

    Raises:
        ValueError: if the SavedModel has no such signature.
        RuntimeError: if this TensorFlow lists no GPU kernels at all, as a
            build without CUDA does.
    """
    _require_gpu_kernels()
    saved = saved_model_pb2.SavedModel.FromString(
        (Path(path) / "saved_model.pb").read_bytes()
    )
    graph = saved.meta_graphs[0]
    if signature not in graph.signature_def:
        raise ValueError(
            f"`signature` must be one of {sorted(graph.signature_def)}. "
            f"Received: {signature!r}"
        )
    outputs = graph.signature_def[signature].outputs.values()
    # What a signature writes into variables is a result, too.
    walk = _Walk(graph.graph_def.library.function, with_writes=True)
    walk.graph(
        graph.graph_def.node,
        [tensor.name for tensor in outputs],
        "signature",
        with_others=False,
    )
    return KernelReport(str(path), signature, walk.uses())


def training_kernel_report(step: Any) -> KernelReport:
    """Check that a training step has GPU kernels.

    What a step writes into variables is a result, as are its outputs. The
    seeds of random numbers, a few bytes, are on the host by TensorFlow's
    design and count as metadata.

    Args:
        step: concrete function of a training step, gradients and all.

    Returns:
        `KernelReport`.

    Raises:
        RuntimeError: if this TensorFlow lists no GPU kernels at all.
    """
    _require_gpu_kernels()
    graph = step.graph.as_graph_def()
    walk = _Walk(graph.library.function, with_writes=True)
    outputs = [tensor.name for tensor in step.graph.outputs]
    walk.graph(graph.node, outputs, "step")
    return KernelReport("", tf.compat.as_str(step.name), walk.uses())


def _require_gpu_kernels() -> None:
    """Fail where the registry cannot answer."""
    if not any(kernel.device_type == "GPU" for kernel in _kernels("MatMul")):
        raise RuntimeError(
            f"TensorFlow {tf.__version__} lists no GPU kernels; install the "
            "`tensorflow` wheel for x86-64 Linux, which does."
        )


@dataclasses.dataclass
class _Node:
    """A node with its tensors resolved.

    Attributes:
        proto: the node.
        inputs: `(node name, output index)` of the data inputs.
        controls: names of the nodes it waits for.
    """

    proto: node_def_pb2.NodeDef
    inputs: list[tuple[str, int]]
    controls: list[str]


class _Walk:
    """Walks graphs and functions, following which tensors carry values."""

    def __init__(
        self, library: Iterable[Any], with_writes: bool = False
    ) -> None:
        self._with_writes = with_writes
        self._library = {f.signature.name: f for f in library}
        self._found: dict[tuple[str, str, str, str], list[str]] = {}
        self._known: dict[tuple[Any, ...], list[bool]] = {}

    def uses(self) -> list[OpUse]:
        """Return what was found, violations first."""
        uses = [
            OpUse(op, dtypes, kind, problem, len(nodes), nodes[0])
            for (op, dtypes, kind, problem), nodes in self._found.items()
        ]
        kinds = (DATA, WAIT, CONTROL, METADATA)
        return sorted(
            uses,
            key=lambda use: (
                not use.problem,
                kinds.index(use.kind),
                use.op,
                use.dtypes,
            ),
        )

    def graph(
        self,
        nodes: Iterable[node_def_pb2.NodeDef],
        outputs: Sequence[str],
        where: str,
        with_others: bool = True,
    ) -> None:
        """Walk a graph: placeholders and variables carry values."""
        resolved = {
            node.name: _Node(
                node,
                [_graph_tensor(i) for i in node.input if i[0] != "^"],
                [i[1:] for i in node.input if i[0] == "^"],
            )
            for node in nodes
        }
        wanted = [_graph_tensor(name) for name in outputs]
        if not with_others:
            needed = _ancestors(resolved, [name for name, _ in wanted])
            resolved = {name: resolved[name] for name in needed}
        self._body(resolved, {}, wanted, [], where)

    def function(
        self, name: str, arguments: Sequence[bool], kind: str
    ) -> list[bool]:
        """Walk a function."""
        key = (name, tuple(arguments), kind)
        if key in self._known:
            return self._known[key]
        function = self._library[name]
        signature = function.signature
        given = {
            (arg.name, 0): carries
            for arg, carries in zip(signature.input_arg, arguments, strict=True)
        }
        ranges = {
            node.name: _output_offsets(node, self._op_def(node))
            for node in function.node_def
        }
        nodes = {
            node.name: _Node(
                node,
                [
                    _function_tensor(i, ranges)
                    for i in node.input
                    if i[0] != "^"
                ],
                [i[1:] for i in node.input if i[0] == "^"],
            )
            for node in function.node_def
        }
        wanted = [
            _function_tensor(function.ret[arg.name], ranges)
            for arg in signature.output_arg
        ]
        controls = list(function.control_ret.values())
        results = self._body(nodes, given, wanted, controls, name, kind)
        self._known[key] = results
        return results

    def _body(
        self,
        nodes: Mapping[str, _Node],
        given: Mapping[tuple[str, int], bool],
        wanted: Sequence[tuple[str, int]],
        controls: Sequence[str],
        where: str,
        kind: str = DATA,
    ) -> list[bool]:
        """Walk the nodes that the wanted tensors need."""
        targets = [name for name, _ in wanted]
        if self._with_writes:
            targets += [
                name for name, node in nodes.items() if self._writes(node.proto)
            ]
        needed = _ancestors(nodes, targets)
        waited = list(controls)
        for name in needed:
            waited += nodes[name].controls
        extra = _ancestors(nodes, waited, with_controls=True)
        carries: dict[tuple[str, int], bool] = dict(given)
        for name in _in_order(nodes, {*needed, *extra}):
            node = nodes[name]
            role = kind if name in needed else CONTROL
            values = [carries[tensor] for tensor in node.inputs]
            results = self._visit(node, values, role, where)
            for index, result in enumerate(results):
                carries[name, index] = result
        return [carries[tensor] for tensor in wanted]

    def _writes(self, proto: node_def_pb2.NodeDef) -> bool:
        """Tell whether a node writes variables, or calls what may."""
        if proto.op in _CALLS or proto.op in self._library:
            return True
        definition = self._op_def(proto)
        return (
            definition is not None
            and not definition.output_arg
            and any(
                arg.type == tf.resource.as_datatype_enum
                for arg in definition.input_arg
            )
        )

    def _visit(
        self, node: _Node, values: list[bool], role: str, where: str
    ) -> list[bool]:
        """Record a node; return which of its outputs carry values."""
        proto = node.proto
        if proto.op in self._library:
            return self.function(proto.op, values, role)
        if proto.op in _CALLS:
            called = proto.attr[_CALLS[proto.op]].func.name
            return self.function(called, values, role)
        if proto.op in _BRANCHES:
            return self._branches(proto, values, role, where)
        if proto.op in _LOOPS:
            return self._loop(proto, values, role, where)
        definition = self._op_def(proto)
        if definition is None:
            self._record(proto, role, "unknown to this TensorFlow", where)
            return [True] * 64
        count = _count(definition.output_arg, proto)
        if proto.op in _SOURCES:
            return [True] * count
        if proto.op in _SHAPES or (self._with_writes and proto.op in _SEEDS):
            self._record(proto, METADATA, "", where)
            return [False] * count
        if proto.op in _DRAWS:
            problem = _problem(proto, definition, values)
            self._record(proto, role, problem, where)
            return [True] * count
        if not any(values):
            kernel_problem = _problem(proto, definition, values)
            kind = CONTROL if role == CONTROL else METADATA
            if kind == CONTROL:
                kernel_problem = ""
            self._record(proto, kind, kernel_problem, where)
            return [False] * count
        if proto.op in _FORWARDING:
            self._record(proto, role, "", where)
            return values if proto.op == "IdentityN" else [True] * count
        problem = _problem(proto, definition, values)
        if role == CONTROL:
            if proto.op in _SHAPE_CHECKS:
                problem = ""
            elif not problem:
                problem = "a control op depends on values"
        self._record(proto, role, problem, where)
        return [True] * count

    def _branches(
        self,
        proto: node_def_pb2.NodeDef,
        values: list[bool],
        role: str,
        where: str,
    ) -> list[bool]:
        """Walk the branches of a conditional."""
        if values[0]:
            self._record(proto, role, "the host waits for its condition", where)
        if "then_branch" in proto.attr:
            names = [
                proto.attr[branch].func.name
                for branch in ("then_branch", "else_branch")
            ]
        else:
            names = [f.name for f in proto.attr["branches"].list.func]
        results = [self.function(name, values[1:], role) for name in names]
        return [values[0] or any(some) for some in zip(*results, strict=True)]

    def _loop(
        self,
        proto: node_def_pb2.NodeDef,
        values: list[bool],
        role: str,
        where: str,
    ) -> list[bool]:
        """Walk a loop until what carries values no longer changes."""
        while True:
            results = self.function(proto.attr["body"].func.name, values, role)
            joined = [a or b for a, b in zip(values, results, strict=True)]
            if joined == values:
                break
            values = joined
        types = proto.attr["T"].list.type
        if any(
            carries and dtype == tf.int32.as_datatype_enum
            for carries, dtype in zip(values, types, strict=True)
        ):
            self._record(
                proto, role, "an int32 loop variable stays on the host", where
            )
        if self.function(proto.attr["cond"].func.name, values, role)[0]:
            kind = WAIT if _WAITING_LOOP in proto.name else role
            self._record(proto, kind, "the host waits for its condition", where)
        return values

    def _record(
        self,
        proto: node_def_pb2.NodeDef,
        kind: str,
        problem: str,
        where: str,
    ) -> None:
        """Note a node."""
        key = (proto.op, _dtypes(proto, self._op_def(proto)), kind, problem)
        self._found.setdefault(key, []).append(f"{where}/{proto.name}")

    def _op_def(self, proto: node_def_pb2.NodeDef) -> op_def_pb2.OpDef | None:
        """Return the definition of a node's op, or None."""
        if proto.op in self._library:
            return self._library[proto.op].signature
        return internals.op_definition(proto.op)


def _graph_tensor(name: str) -> tuple[str, int]:
    """Split `node:index` of a graph."""
    node, _, index = name.partition(":")
    return node, int(index or 0)


def _function_tensor(
    name: str, ranges: Mapping[str, Mapping[str, int]]
) -> tuple[str, int]:
    """Split `node:output:index` of a function, or the name of an argument."""
    parts = name.split(":")
    if len(parts) == 1:
        return parts[0], 0
    return parts[0], ranges[parts[0]][parts[1]] + int(parts[2])


def _output_offsets(
    proto: node_def_pb2.NodeDef, definition: op_def_pb2.OpDef | None
) -> dict[str, int]:
    """Return the index of the first tensor of each named output."""
    offsets: dict[str, int] = {}
    total = 0
    for arg in definition.output_arg if definition else ():
        offsets[arg.name] = total
        total += _arg_count(arg, proto)
    return offsets


def _attr(proto: node_def_pb2.NodeDef, name: str) -> Any:
    """Return an attribute, or its default where it was stripped."""
    if name in proto.attr:
        return proto.attr[name]
    definition = internals.op_definition(proto.op)
    for attr in definition.attr if definition else ():
        if attr.name == name:
            return attr.default_value
    raise ValueError(f"{proto.op} has no attribute {name!r}.")


def _arg_count(arg: Any, proto: node_def_pb2.NodeDef) -> int:
    """Return the number of tensors of an argument."""
    if arg.number_attr:
        return int(_attr(proto, arg.number_attr).i)
    if arg.type_list_attr:
        return len(_attr(proto, arg.type_list_attr).list.type)
    return 1


def _count(args: Iterable[Any], proto: node_def_pb2.NodeDef) -> int:
    """Return the number of tensors of some arguments."""
    return sum(_arg_count(arg, proto) for arg in args)


def _names(args: Iterable[Any], proto: node_def_pb2.NodeDef) -> list[str]:
    """Return for each tensor the name of its argument."""
    return [arg.name for arg in args for _ in range(_arg_count(arg, proto))]


def _types(attribute: Any) -> list[int]:
    """Return the types of a type or list(type) attribute."""
    return list(attribute.list.type) or [attribute.type]


def _dtypes(
    proto: node_def_pb2.NodeDef, definition: op_def_pb2.OpDef | None
) -> str:
    """Return a node's type attributes as text."""
    found = []
    for attr in definition.attr if definition else ():
        if attr.type in ("type", "list(type)") and not attr.name.startswith(
            "_"
        ):
            names = sorted(
                {
                    tf.dtypes.as_dtype(t).name
                    for t in _types(_attr(proto, attr.name))
                    if t
                }
            )
            found.append(f"{attr.name}={'+'.join(names)}")
    return " ".join(found)


def _problem(
    proto: node_def_pb2.NodeDef,
    definition: op_def_pb2.OpDef,
    values: Sequence[bool],
) -> str:
    """Return why a node's values do not stay on a GPU, or nothing."""
    if "CPU" in proto.device.upper():
        return f"pinned to {proto.device}"
    kernel = _gpu_kernel(proto)
    if kernel is None:
        return "no GPU kernel"
    host = set(kernel.host_memory_arg)
    names = _names(definition.input_arg, proto)
    types = {arg.name: arg.type for arg in definition.input_arg}
    on_host = sorted(
        {
            name
            for name, carries in zip(names, values, strict=True)
            if carries
            and name in host
            and types[name] != tf.resource.as_datatype_enum
        }
        | (host & {arg.name for arg in definition.output_arg})
    )
    if on_host:
        return f"its GPU kernel keeps {', '.join(on_host)} on the host"
    return ""


def _gpu_kernel(
    proto: node_def_pb2.NodeDef,
) -> kernel_def_pb2.KernelDef | None:
    """Return the kernel a GPU would run, or None."""
    listed = _kernels(proto.op)
    # DEFAULT kernels serve every device without one of its own.
    for device in ("GPU", "DEFAULT"):
        for kernel in listed:
            if (
                kernel.device_type == device
                and not kernel.label
                and _allows(kernel, proto)
            ):
                return kernel
    return None


# Asked for at every node.
_kernels = functools.cache(internals.registered_kernels)


def _allows(
    kernel: kernel_def_pb2.KernelDef, proto: node_def_pb2.NodeDef
) -> bool:
    """Tell whether a kernel takes a node's attributes.

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


def _ancestors(
    nodes: Mapping[str, _Node],
    names: Iterable[str],
    with_controls: bool = False,
) -> set[str]:
    """Return the nodes that some nodes need."""
    found: set[str] = set()
    waiting = [name for name in names if name in nodes]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        inputs = [source for source, _ in nodes[name].inputs]
        if with_controls:
            inputs += nodes[name].controls
        waiting += [source for source in inputs if source in nodes]
    return found


def _in_order(nodes: Mapping[str, _Node], chosen: set[str]) -> list[str]:
    """Return chosen nodes, each after the nodes it reads from."""
    ordered: dict[str, None] = {}
    for start in chosen:
        stack = [(start, False)]
        while stack:
            name, ready = stack.pop()
            if ready:
                ordered[name] = None
            elif name not in ordered:
                stack.append((name, True))
                stack += [
                    (source, False)
                    for source, _ in nodes[name].inputs
                    if source in nodes and source not in ordered
                ]
    return list(ordered)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report of `PATH [SIGNATURE ...]`; 1 if one failed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        sys.stderr.write(
            "usage: python -m serving.export.kernel_report PATH "
            "[SIGNATURE ...]\n"
        )
        return 2
    reports = [
        kernel_report(given[0], signature)
        for signature in given[1:] or ("rank", "explain", "embed")
    ]
    for report in reports:
        sys.stdout.write(f"{report}\n")
    return 0 if all(report.passed for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
