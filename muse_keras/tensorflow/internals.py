"""Everything that this project uses of TensorFlow's private API.

Any of it may change with a release of TensorFlow; tests/muse_keras/tensorflow/
test_internals.py has a test for each function. `serving` also imports these
names from here.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.framework import kernel_def_pb2, op_def_pb2
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.framework import kernels, op_def_registry, ops
from tensorflow.python.ops import resource_variable_ops
from tensorflow.python.saved_model import fingerprinting_utils

__all__ = [
    "create_without_broadcast",
    "free_graph",
    "keep_out_of_checkpoints",
    "op_definition",
    "registered_kernels",
    "replica_variable",
    "run_session",
    "session_output",
    "variable_without_value",
    "write_fingerprint",
]


def registered_kernels(op: str) -> tuple[kernel_def_pb2.KernelDef, ...]:
    """Returns this release's kernels of an op for all devices."""
    return tuple(kernels.get_registered_kernels_for_op(op).kernel)


def op_definition(op: str) -> op_def_pb2.OpDef | None:
    """Returns this release's definition of an op, or None."""
    return op_def_registry.get(op)


def write_fingerprint(folder: str | os.PathLike[str]) -> None:
    """Writes `fingerprint.pb` for the SavedModel in a folder."""
    fingerprinting_utils.write_fingerprint(str(folder))


def replica_variable(variable: Any) -> tf.Variable:
    """Returns a variable's copy on the replica that calls this."""
    return variable._get()


def create_without_broadcast(
    strategy: tf.distribute.MultiWorkerMirroredStrategy,
) -> None:
    """Lets each worker compute the initial values of its variables.

    TensorFlow sends those of the chief, whole tables included, and fails for
    dtypes that its broadcast lacks, such as int8. Initial values must be
    equal on all workers, as they are with equal seeds.
    """
    extended = strategy.extended
    extended._get_variable_creator_initial_value = super(
        type(extended), extended
    )._get_variable_creator_initial_value


def keep_out_of_checkpoints(variable: tf.Variable) -> None:
    """Excludes a variable from checkpoints, including the SavedModel's."""
    original = variable._export_to_saved_model_graph

    def export(object_map: Any, **kwargs: Any) -> Any:
        handles = original(object_map, **kwargs)
        # The saved graph restores this copy, not the variable itself.
        object_map[variable]._serialize_to_tensors = dict
        return handles

    variable._export_to_saved_model_graph = export
    variable._serialize_to_tensors = dict


def variable_without_value(
    name: str, shape: Sequence[int], dtype: tf.DType
) -> tf.Variable:
    """Returns a variable that takes no memory until it is assigned."""
    return resource_variable_ops.UninitializedVariable(
        trainable=False, shape=shape, dtype=dtype, name=name
    )


def free_graph(graph: tf.Graph) -> None:
    """Frees a graph as soon as its last user is gone.

    Operations refer to their graph; without this it stays in memory until the
    garbage collector runs. The graph cannot be used afterwards.
    """
    ops.dismantle_graph(graph)


def session_output(tensor: tf.Tensor) -> Any:
    """Returns the handle that `run_session` takes for a tensor."""
    return tensor._as_tf_output()


def run_session(
    session: tf.compat.v1.Session,
    feeds: dict[Any, npt.NDArray[Any]],
    fetches: Sequence[Any],
    timeout_ms: int | None,
) -> list[npt.NDArray[Any]]:
    """Calls `Session::Run` directly, without the checks of `Session.run`.

    Feeds and fetches are handles from `session_output`. After `timeout_ms` the
    run is canceled with `tf.errors.DeadlineExceededError`; None sets no limit.
    """
    if timeout_ms is None:
        return session._call_tf_sessionrun(None, feeds, fetches, [], None)
    options = tf.compat.v1.RunOptions(timeout_in_ms=timeout_ms)
    buffer = pywrap_tf_session.TF_NewBufferFromString(
        options.SerializeToString()
    )
    try:
        return session._call_tf_sessionrun(buffer, feeds, fetches, [], None)
    finally:
        pywrap_tf_session.TF_DeleteBuffer(buffer)
