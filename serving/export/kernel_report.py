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
import graphlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import kernel_def_pb2, op_def_pb2
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.protobuf import saved_model_pb2

from muse_keras.tensorflow import internals

DATA = "data"
METADATA = "metadata"
CONTROL = "control"
WAIT = "wait"

_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
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
    """How one kind of op is used by a signature."""

    op: str
    dtypes: str
    kind: str
    # Why it does not run on a GPU; empty if it does.
    problem: str
    count: int
    # Function and node name of the first one.
    example: str


@dataclasses.dataclass(frozen=True)
class KernelReport:
    """What a signature needs of a GPU."""

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
    walk = _Walk(graph.graph_def.library.function)
    names = [tensor.name for tensor in outputs]
    walk.graph(graph.graph_def.node, names, "signature", with_others=False)
    return KernelReport(signature, walk.uses())


def training_kernel_report(step: Any) -> KernelReport:
    """Check that a training step has GPU kernels.

    What a step writes into variables is a result, as are its outputs. The
    seeds of random numbers, a few bytes, are on the host by TensorFlow's
    design and count as metadata.
    """
    _require_gpu_kernels()
    graph = step.graph.as_graph_def()
    walk = _Walk(graph.library.function)
    outputs = [tensor.name for tensor in step.graph.outputs]
    walk.graph(graph.node, outputs, "step")
    return KernelReport(tf.compat.as_str(step.name), walk.uses())


def _require_gpu_kernels() -> None:
    if not any(kernel.device_type == "GPU" for kernel in _kernels("MatMul")):
        raise RuntimeError(
            f"TensorFlow {tf.__version__} lists no GPU kernels; install the "
            "`tensorflow` wheel for x86-64 Linux, which does."
        )


@dataclasses.dataclass
class _Node:
    """A node, its data inputs as `(node name, output index)`, and controls."""

    proto: NodeDef
    inputs: list[tuple[str, int]]
    controls: list[str]


class _Walk:
    """Walks graphs and functions, following which tensors carry values.

    What is written into variables is a result, as are the outputs.
    """

    def __init__(self, library: Iterable[Any]) -> None:
        self._library = {f.signature.name: f for f in library}
        self._found: dict[tuple[str, str, str, str], list[str]] = {}
        self._known: dict[tuple[Any, ...], list[bool]] = {}

    def uses(self) -> list[OpUse]:
        uses = [
            OpUse(op, dtypes, kind, problem, len(nodes), nodes[0])
            for (op, dtypes, kind, problem), nodes in self._found.items()
        ]
        kinds = (DATA, WAIT, CONTROL, METADATA)

        def place(use: OpUse) -> tuple[Any, ...]:
            return not use.problem, kinds.index(use.kind), use.op, use.dtypes

        return sorted(uses, key=place)

    def graph(
        self,
        nodes: Iterable[NodeDef],
        outputs: Sequence[str],
        where: str,
        with_others: bool = True,
    ) -> None:
        """Walk a graph: placeholders and variables carry values.

        Without others, only nodes that the outputs need are looked at: a
        SavedModel holds other signatures as well.
        """
        resolved = _resolved(nodes, _graph_tensor)
        wanted = [_graph_tensor(name) for name in outputs]
        if not with_others:
            needed = _ancestors(resolved, [name for name, _ in wanted])
            resolved = {name: resolved[name] for name in needed}
        self._body(resolved, {}, wanted, [], where, DATA)

    def _function(
        self, name: str, arguments: Sequence[bool], kind: str
    ) -> list[bool]:
        """Return which results of a function carry values.

        `arguments` says which of its arguments do; `kind` is `data` if
        results depend on the call, else `control`.
        """
        key = (name, tuple(arguments), kind)
        if key not in self._known:
            function = self._library[name]
            signature = function.signature
            given = {
                (arg.name, 0): carries
                for arg, carries in zip(
                    signature.input_arg, arguments, strict=True
                )
            }
            outputs = {
                node.name: _names(definition.output_arg, node)
                for node in function.node_def
                if (definition := self._op_def(node))
            }

            def tensor(name: str) -> tuple[str, int]:
                """Splits `node:output:index`, or the name of an argument."""
                node, *rest = name.split(":")
                if not rest:
                    return node, 0
                return node, outputs[node].index(rest[0]) + int(rest[1])

            self._known[key] = self._body(
                _resolved(function.node_def, tensor),
                given,
                [tensor(function.ret[a.name]) for a in signature.output_arg],
                list(function.control_ret.values()),
                name,
                kind,
            )
        return self._known[key]

    def _body(
        self,
        nodes: Mapping[str, _Node],
        given: Mapping[tuple[str, int], bool],
        wanted: Sequence[tuple[str, int]],
        controls: Sequence[str],
        where: str,
        kind: str,
    ) -> list[bool]:
        """Walk the nodes that the wanted tensors need."""
        writes = (name for name in nodes if self._writes(nodes[name].proto))
        needed = _ancestors(nodes, [*(name for name, _ in wanted), *writes])
        waited = list(controls)
        for name in needed:
            waited += nodes[name].controls
        extra = _ancestors(nodes, waited, with_controls=True)
        carries: dict[tuple[str, int], bool] = dict(given)
        sources = {
            name: [node for node, _ in nodes[name].inputs if node in nodes]
            for name in {*needed, *extra}
        }
        for name in graphlib.TopologicalSorter(sources).static_order():
            node = nodes[name]
            role = kind if name in needed else CONTROL
            values = [carries[tensor] for tensor in node.inputs]
            results = self._visit(node.proto, values, role, where)
            for index, result in enumerate(results):
                carries[name, index] = result
        return [carries[tensor] for tensor in wanted]

    def _writes(self, proto: NodeDef) -> bool:
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
        self, proto: NodeDef, values: list[bool], role: str, where: str
    ) -> list[bool]:
        """Record a node; return which of its outputs carry values."""
        if proto.op in self._library:
            return self._function(proto.op, values, role)
        if proto.op in _CALLS:
            return self._function(proto.attr["f"].func.name, values, role)
        if proto.op in _BRANCHES:
            return self._branches(proto, values, role, where)
        if proto.op in _LOOPS:
            return self._loop(proto, values, role, where)
        definition = self._op_def(proto)
        if definition is None:
            self._record(proto, role, "unknown to this TensorFlow", where)
            return [True] * 64
        results = [True] * len(_names(definition.output_arg, proto))
        if proto.op in _SOURCES:
            return results
        if proto.op in _SHAPES | _SEEDS:
            kind, problem, results = METADATA, "", [False] * len(results)
        elif proto.op in _DRAWS:
            kind, problem = role, _problem(proto, definition, values)
        elif not any(values):
            kind, problem, results = CONTROL, "", [False] * len(results)
            if role != CONTROL:
                kind = METADATA
                problem = _problem(proto, definition, values)
        elif proto.op in _FORWARDING:
            kind, problem = role, ""
            if proto.op == "IdentityN":
                results = values
        else:
            kind, problem = role, _problem(proto, definition, values)
            if role == CONTROL and proto.op in _SHAPE_CHECKS:
                problem = ""
            elif role == CONTROL:
                problem = problem or "a control op depends on values"
        self._record(proto, kind, problem, where)
        return results

    def _branches(
        self, proto: NodeDef, values: list[bool], role: str, where: str
    ) -> list[bool]:
        if values[0]:
            self._record(proto, role, "the host waits for its condition", where)
        branches = (
            [proto.attr[name].func for name in ("then_branch", "else_branch")]
            if "then_branch" in proto.attr
            else proto.attr["branches"].list.func
        )
        results = [
            self._function(branch.name, values[1:], role) for branch in branches
        ]
        return [values[0] or any(some) for some in zip(*results, strict=True)]

    def _loop(
        self, proto: NodeDef, values: list[bool], role: str, where: str
    ) -> list[bool]:
        """Walk a loop until what carries values no longer changes."""
        while True:
            results = self._function(proto.attr["body"].func.name, values, role)
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
        if self._function(proto.attr["cond"].func.name, values, role)[0]:
            kind = WAIT if _WAITING_LOOP in proto.name else role
            self._record(proto, kind, "the host waits for its condition", where)
        return values

    def _record(
        self, proto: NodeDef, kind: str, problem: str, where: str
    ) -> None:
        key = (proto.op, _dtypes(proto, self._op_def(proto)), kind, problem)
        self._found.setdefault(key, []).append(f"{where}/{proto.name}")

    def _op_def(self, proto: NodeDef) -> op_def_pb2.OpDef | None:
        if proto.op in self._library:
            return self._library[proto.op].signature
        return internals.op_definition(proto.op)


def _graph_tensor(name: str) -> tuple[str, int]:
    node, _, index = name.partition(":")
    return node, int(index or 0)


def _resolved(
    protos: Iterable[NodeDef], tensor: Callable[[str], tuple[str, int]]
) -> dict[str, _Node]:
    """Return nodes by name, with the tensors and the nodes they wait for."""
    return {
        proto.name: _Node(
            proto,
            [tensor(name) for name in proto.input if name[0] != "^"],
            [name[1:] for name in proto.input if name[0] == "^"],
        )
        for proto in protos
    }


def _attr(proto: NodeDef, name: str) -> Any:
    """Return an attribute, or its default where it was stripped."""
    if name in proto.attr:
        return proto.attr[name]
    definition = internals.op_definition(proto.op)
    for attr in definition.attr if definition else ():
        if attr.name == name:
            return attr.default_value
    raise ValueError(f"{proto.op} has no attribute {name!r}.")


def _names(args: Iterable[Any], proto: NodeDef) -> list[str]:
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


def _dtypes(proto: NodeDef, definition: op_def_pb2.OpDef | None) -> str:
    found = []
    for attr in definition.attr if definition else ():
        if attr.type in ("type", "list(type)") and attr.name[0] != "_":
            types = filter(None, _types(_attr(proto, attr.name)))
            names = {tf.dtypes.as_dtype(one).name for one in types}
            found.append(f"{attr.name}={'+'.join(sorted(names))}")
    return " ".join(found)


def _problem(
    proto: NodeDef, definition: op_def_pb2.OpDef, values: Sequence[bool]
) -> str:
    """Return why a node's values do not stay on a GPU, or nothing."""
    if "CPU" in proto.device.upper():
        return f"pinned to {proto.device}"
    kernel = _gpu_kernel(proto)
    if kernel is None:
        return "no GPU kernel"
    names = _names(definition.input_arg, proto)
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
    # DEFAULT kernels serve every device without one of its own.
    for device in ("GPU", "DEFAULT"):
        for kernel in _kernels(proto.op):
            fits = kernel.device_type == device and not kernel.label
            if fits and _allows(kernel, proto):
                return kernel
    return None


# Asked for at every node.
_kernels = functools.cache(internals.registered_kernels)


def _allows(kernel: kernel_def_pb2.KernelDef, proto: NodeDef) -> bool:
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
