"""All that this project uses of TensorFlow beyond its public API.

Any of it may change with a release of TensorFlow; tests/muse_keras/tensorflow/
test_internals.py holds a test for each, named after what it guards. `serving`
imports these names from here, too.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.framework import kernel_def_pb2, op_def_pb2
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.framework import kernels, op_def_registry
from tensorflow.python.saved_model import fingerprinting_utils

__all__ = [
    "keep_out_of_checkpoints",
    "op_definition",
    "registered_kernels",
    "replica_variable",
    "run_session",
    "session_output",
    "write_fingerprint",
]


def registered_kernels(op: str) -> tuple[kernel_def_pb2.KernelDef, ...]:
    """Returns the kernels of an op for all devices, of this release."""
    return tuple(kernels.get_registered_kernels_for_op(op).kernel)


def op_definition(op: str) -> op_def_pb2.OpDef | None:
    """Returns what this release registers of an op, None if it has none."""
    return op_def_registry.get(op)


def write_fingerprint(folder: str | os.PathLike[str]) -> None:
    """Writes `fingerprint.pb` of the SavedModel in a folder."""
    fingerprinting_utils.write_fingerprint(str(folder))


def replica_variable(variable: Any) -> tf.Variable:
    """Returns the variable of the replica that this is called in."""
    return variable._get()


def keep_out_of_checkpoints(variable: tf.Variable) -> None:
    """Lets no checkpoint hold a variable, nor that of its SavedModel."""
    original = variable._export_to_saved_model_graph

    def export(object_map: Any, **kwargs: Any) -> Any:
        handles = original(object_map, **kwargs)
        # The saved graph restores this copy, not the variable itself.
        object_map[variable]._serialize_to_tensors = dict
        return handles

    variable._export_to_saved_model_graph = export
    variable._serialize_to_tensors = dict


def session_output(tensor: tf.Tensor) -> Any:
    """Returns the handle by which `run_session` knows a tensor."""
    return tensor._as_tf_output()


def run_session(
    session: tf.compat.v1.Session,
    feeds: dict[Any, npt.NDArray[Any]],
    fetches: Sequence[Any],
    timeout_ms: int | None,
) -> list[npt.NDArray[Any]]:
    """Calls `Session::Run` itself, without the checks of `Session.run`.

    Feeds and fetches are by `session_output`. After `timeout_ms` the run is
    canceled and raises `tf.errors.DeadlineExceededError`; None is no limit.
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
