"""Finds which tensors of a graph and its functions carry values."""

import dataclasses
import graphlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import op_def_pb2
from tensorflow.core.framework.node_def_pb2 import NodeDef

from muse_keras.tensorflow import internals
from serving.export.gpu_kernels import dtypes_of, problem_of, tensor_names

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
# These forward their input; they are removed when functions are inlined.
_FORWARDING = {"Identity", "IdentityN", "StopGradient", "PreventGradient"}
# These check the shape of the tensor that they forward.
_SHAPE_CHECKS = {"EnsureShape"}
_SOURCES = {"Placeholder", "PlaceholderWithDefault", "VarHandleOp", "_Arg"}
# Makes the state of a random generator from seeds, on the host. The numbers
# drawn from it are data.
_SEEDS = {"StatelessRandomGetKeyCounter"}
_DRAWS = {"StatelessRandomUniformV2"}


@dataclasses.dataclass(frozen=True)
class OpUse:
    """How a signature uses one kind of op."""

    op: str
    dtypes: str
    kind: str
    # Reason why it cannot run on a GPU; empty if it can.
    problem: str
    count: int
    # Function and node name of the first use.
    example: str


@dataclasses.dataclass
class _Node:
    """A node, its data inputs as `(node name, output index)`, and controls."""

    proto: NodeDef
    inputs: list[tuple[str, int]]
    controls: list[str]


class GraphWalk:
    """Walks graphs and functions to find the tensors that carry values.

    Results are the outputs and the values that are written into variables.
    """

    def __init__(self, library: Iterable[Any]) -> None:
        self._library = {f.signature.name: f for f in library}
        self._found: dict[tuple[str, str, str, str], list[str]] = {}
        self._known: dict[tuple[Any, ...], list[bool]] = {}

    def uses(self) -> list[OpUse]:
        """Return the uses found, violations first."""
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
        """Walk a graph, whose placeholders and variables carry values.

        With `outputs`, only nodes that they need are visited, because a
        SavedModel also holds other signatures.
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

        `arguments` tells which of its arguments do. `kind` is `data` if results
        depend on the call, else `control`.
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
                node.name: tensor_names(definition.output_arg, node)
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
        """Walk the nodes that the wanted tensors depend on."""
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
        """Return whether a node writes variables, or calls code that may."""
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
        results = [True] * len(tensor_names(definition.output_arg, proto))
        if proto.op in _SOURCES:
            return results
        if proto.op in _SHAPES | _SEEDS:
            kind, problem, results = METADATA, "", [False] * len(results)
        elif proto.op in _DRAWS:
            kind, problem = role, problem_of(proto, definition, values)
        elif not any(values):
            kind, problem, results = CONTROL, "", [False] * len(results)
            if role != CONTROL:
                kind = METADATA
                problem = problem_of(proto, definition, values)
        elif proto.op in _FORWARDING:
            kind, problem = role, ""
            if proto.op == "IdentityN":
                results = values
        else:
            kind, problem = role, problem_of(proto, definition, values)
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
        """Walk a loop until the set of tensors with values is stable."""
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
        key = (proto.op, dtypes_of(proto, self._op_def(proto)), kind, problem)
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
    """Return nodes by name, with the tensors and nodes that they wait for."""
    return {
        proto.name: _Node(
            proto,
            [tensor(name) for name in proto.input if name[0] != "^"],
            [name[1:] for name in proto.input if name[0] == "^"],
        )
        for proto in protos
    }


def _ancestors(
    nodes: Mapping[str, _Node],
    names: Iterable[str],
    with_controls: bool = False,
) -> set[str]:
    """Return all nodes that the given nodes depend on."""
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
