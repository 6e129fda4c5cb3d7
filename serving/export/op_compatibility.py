"""Checks whether TensorFlow releases load a graph that another one made.

A server rejects a graph with an op or an attribute that its release does not
register, whatever its value. An absent attribute gets the default of the
server's release. `registered_ops.jsonl` lists the ops that each release
registers; `scripts/registered_ops.py` generates it.
"""

import dataclasses
import functools
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import (
    attr_value_pb2,
    graph_pb2,
    node_def_pb2,
    op_def_pb2,
)
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

_TABLE = Path(__file__).with_name("registered_ops.jsonl")
# The releases that must load a graph, by the first release that makes it.
_SERVED_BY = (((2, 19), ("2.19", "2.20")), ((2, 16), ("2.16", "2.19", "2.20")))


def problems(
    saved_model: str | os.PathLike[str], releases: Iterable[str] | None = None
) -> list[str]:
    """Return what TensorFlow Serving releases would reject, one line each.

    The default releases are those that must load this TensorFlow's exports.
    """
    data = (Path(saved_model) / "saved_model.pb").read_bytes()
    saved = saved_model_pb2.SavedModel.FromString(data)
    found: dict[str, None] = {}
    graphs = [(one.graph_def, _uses(one)) for one in saved.meta_graphs]
    for release in served_by() if releases is None else releases:
        graph_versions, ops = _registered(release)
        for graph, uses in graphs:
            for problem in _of_graph(graph, uses, graph_versions, ops):
                found[f"TensorFlow Serving {release}: {problem}"] = None
    return list(found)


def served_by(version: str = tf.__version__) -> tuple[str, ...]:
    """Return the releases that must load what a TensorFlow version exports."""
    made_by = tuple(map(int, version.split(".")[:2]))
    for first, releases in _SERVED_BY:
        if made_by >= first:
            return releases
    raise ValueError(f"TensorFlow {version} is older than any known stack.")


@functools.lru_cache
def _registered(release: str) -> tuple[list[int], dict[str, Any]]:
    """Return the graph version, its minimum, and the ops by name."""
    with _TABLE.open(encoding="utf-8") as lines:
        versions = json.loads(next(lines))
        if release not in versions:
            raise ValueError(
                f"`releases` must be among {sorted(versions)}. "
                f"Received: {release!r}"
            )
        rows = (json.loads(line) for line in lines)
        return versions[release], {
            name: rest for known, name, *rest in rows if release in known
        }


@dataclasses.dataclass
class _Uses:
    """The uses of one op in all nodes of a graph."""

    # The op's definition in the exporting TensorFlow, if the graph has it.
    made_with: op_def_pb2.OpDef | None
    # Name of the first node that uses the op.
    node: str
    # By attribute: its different values and the first node with each value.
    values: dict[str, dict[bytes, tuple[Any, str]]] = dataclasses.field(
        default_factory=dict
    )
    # The sets of attributes that nodes set.
    given: set[frozenset[str]] = dataclasses.field(default_factory=set)

    def add(self, node: node_def_pb2.NodeDef) -> None:
        self.given.add(frozenset(node.attr))
        for name, value in node.attr.items():
            # Names with an underscore are for the runtime and arbitrary.
            if not name.startswith("_"):
                self.values.setdefault(name, {}).setdefault(
                    value.SerializeToString(), (value, node.name)
                )


def _uses(meta_graph: meta_graph_pb2.MetaGraphDef) -> dict[str, _Uses]:
    library = meta_graph.graph_def.library.function
    functions = {one.signature.name for one in library}
    made_with = {
        op.name: op for op in meta_graph.meta_info_def.stripped_op_list.op
    }
    found: dict[str, _Uses] = {}
    every = (meta_graph.graph_def.node, *(one.node_def for one in library))
    for node in itertools.chain.from_iterable(every):
        op = node.op
        if op not in functions:
            if op not in found:
                found[op] = _Uses(made_with.get(op), node.name)
            found[op].add(node)
    return found


def _of_graph(
    graph: graph_pb2.GraphDef,
    uses: Mapping[str, _Uses],
    graph_versions: list[int],
    ops: Mapping[str, Any],
) -> Iterator[str]:
    """Yield what a release rejects in a graph and its functions."""
    version, least = graph_versions
    if graph.versions.min_consumer > version:
        yield (
            f"the graph asks for version {graph.versions.min_consumer} of the "
            f"graph format, this release has {version}"
        )
    if graph.versions.producer < least:
        yield (
            f"the graph has version {graph.versions.producer} of the graph "
            f"format, this release reads {least} and later"
        )
    if version in graph.versions.bad_consumers:
        yield f"the graph names version {version} of the format as one to avoid"
    for op, use in uses.items():
        if op not in ops:
            yield f"no op {op} (node {use.node})"
        else:
            yield from _of_op(op, use, ops[op])


def _of_op(op: str, use: _Uses, known: Any) -> Iterator[str]:
    """Yield what a release that registers the op rejects in its nodes."""
    inputs, outputs, attributes = known
    made_with = use.made_with
    if made_with is not None:
        for kind, given, expected in (
            ("inputs", made_with.input_arg, inputs),
            ("outputs", made_with.output_arg, outputs),
        ):
            if _arguments(given) != expected:
                yield f"op {op} has other {kind}"
    for name, values in use.values.items():
        for value, node in values.values():
            if name not in attributes:
                yield f"op {op} has no attribute {name!r} (node {node})"
                break
            if wrong := _not_allowed(value, attributes[name]):
                yield f"op {op} does not take {wrong} as {name!r} (node {node})"
    defaults = {
        attribute.name: attribute.default_value
        for attribute in (made_with.attr if made_with is not None else ())
    }
    for name, (_, default, *_) in attributes.items():
        if all(name in given for given in use.given):
            continue
        if default is None:
            yield f"op {op} needs an attribute {name!r}"
        elif name in defaults:
            own = attr_value_pb2.AttrValue.FromString(bytes.fromhex(default))
            if own != defaults[name]:
                yield f"op {op} has another default of {name!r}"


def _not_allowed(value: attr_value_pb2.AttrValue, attribute: Any) -> str:
    """Return the part of a value that is not allowed, or an empty text."""
    kind, _, types, texts = attribute
    if value.HasField("placeholder"):
        return ""  # The function's caller sets it.
    listed = kind.startswith("list(")
    for one in value.list.type if listed else [value.type]:
        if types and one not in types:
            return tf.dtypes.as_dtype(one).name
    for one in value.list.s if listed else [value.s]:
        if texts and one.decode() not in texts:
            return repr(one.decode())
    return ""


def _arguments(arguments: Iterable[op_def_pb2.OpDef.ArgDef]) -> list[list[Any]]:
    return [
        [a.name, a.type, a.type_attr, a.number_attr, a.type_list_attr]
        for a in arguments
    ]
