"""Proof, on a machine without a GPU, that a signature can run on one.

TensorFlow silently places an op without a GPU kernel on the host, and then
the ids and vectors are copied back and forth. The Linux wheel lists the kernels
of all devices, so the placement can be checked on any machine: the report
walks the saved graph of a signature through all nested functions, and looks
up the kernel of each op for its dtypes.

The rule: an op is on the *data path* if a result depends on it and it depends
on values, of a request's tensor or of a variable. Each such op must have a GPU
kernel for its dtypes that keeps these values in device memory (many int32
kernels are registered for the GPU but compute on the host), and no op may be
pinned to a CPU. These are not on the data path, and run on the host by design:

- *metadata*: ops that depend only on constants and on the shapes of tensors
  (`Shape`, arithmetic on sizes, ranges), never on their values;
- *wait*: a loop that the host ends by reading one bool from the device. The
  search until its result is proven is the only such loop allowed;
- *control*: ops that no result depends on, such as assertions. An assertion
  may only read shapes: if it depends on a value, it is a violation as well,
  since the host would wait for the device.
"""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from serving.export.gpu_kernels import require_gpu_kernels
from serving.export.graph_walk import (
    CONTROL,
    DATA,
    METADATA,
    WAIT,
    GraphWalk,
    OpUse,
)


@dataclasses.dataclass(frozen=True)
class KernelReport:
    """How a signature would run on a GPU."""

    signature: str
    uses: Sequence[OpUse]

    @property
    def violations(self) -> list[OpUse]:
        """Ops that stay on the host although the data path needs them."""
        return [
            use
            for use in self.uses
            if use.problem and use.kind not in (METADATA, WAIT)
        ]

    @property
    def passed(self) -> bool:
        """Whether all ops from the inputs to the scores have a GPU kernel."""
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

    Only the graph is read; the variables are not loaded.
    """
    require_gpu_kernels()
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
    walk = GraphWalk(graph.graph_def.library.function)
    names = [tensor.name for tensor in outputs]
    walk.graph(graph.graph_def.node, names, "signature", with_others=False)
    return KernelReport(signature, walk.uses())


def training_kernel_report(step: Any) -> KernelReport:
    """Check that a training step has GPU kernels.

    Results are the outputs and the values that are written into variables. The
    seeds of random numbers, a few bytes, are on the host by TensorFlow's
    design and count as metadata.
    """
    require_gpu_kernels()
    graph = step.graph.as_graph_def()
    walk = GraphWalk(graph.library.function)
    outputs = [tensor.name for tensor in step.graph.outputs]
    walk.graph(graph.node, outputs, "step")
    return KernelReport(tf.compat.as_str(step.name), walk.uses())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the reports of `PATH [SIGNATURE ...]`; return 1 if one failed."""
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
