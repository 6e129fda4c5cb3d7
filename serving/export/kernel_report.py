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

    Outputs are results, and so are values written into variables. The
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
