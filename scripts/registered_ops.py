#!/usr/bin/env python3
"""Write down which ops releases of TensorFlow register.

    python scripts/registered_ops.py PYTHON... > \
        serving/export/registered_ops.jsonl

Each PYTHON is the interpreter of an environment that holds one release (the
wheel of TensorFlow, for the CPU alone suffices). The first line has the
versions of the graph format by release; every other line is one definition of
an op with the releases that have it.
"""

import json
import subprocess
import sys

# Runs in each environment: it prints one release.
_DUMP = """
import json
import tensorflow as tf
from tensorflow.core.framework import op_def_pb2
from tensorflow.python.client import pywrap_tf_session as c_api

ops = op_def_pb2.OpList.FromString(c_api.TF_GetBuffer(c_api.TF_GetAllOpList()))

def described(op):
    def arguments(some):
        return [
            [a.name, a.type, a.type_attr, a.number_attr, a.type_list_attr]
            for a in some
        ]

    def bytes_of(value):
        return value.SerializeToString(deterministic=True).hex()

    attributes = {
        a.name: [
            a.type,
            bytes_of(a.default_value) if a.HasField("default_value") else None,
            sorted(a.allowed_values.list.type),
            sorted(v.decode() for v in a.allowed_values.list.s),
        ]
        for a in op.attr
    }
    return [
        op.name,
        arguments(op.input_arg),
        arguments(op.output_arg),
        attributes,
    ]

print(json.dumps({
    "release": ".".join(tf.__version__.split(".")[:2]),
    "graph": [
        tf.version.GRAPH_DEF_VERSION,
        tf.version.GRAPH_DEF_VERSION_MIN_PRODUCER,
    ],
    "ops": [described(op) for op in ops.op],
}))
"""


def main(interpreters: list[str]) -> None:
    """Asks every interpreter, and prints the table."""
    graphs: dict[str, list[int]] = {}
    releases: dict[str, list[str]] = {}
    for interpreter in interpreters:
        found = json.loads(
            subprocess.run(
                [interpreter, "-c", _DUMP],
                check=True,
                stdout=subprocess.PIPE,
            ).stdout
        )
        graphs[found["release"]] = found["graph"]
        for op in found["ops"]:
            line = json.dumps(op, separators=(",", ":"), sort_keys=True)
            releases.setdefault(line, []).append(found["release"])
    lines = [json.dumps(graphs, sort_keys=True)]
    for line, known in sorted(releases.items()):
        lines.append(f"[{json.dumps(sorted(known))},{line[1:]}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
