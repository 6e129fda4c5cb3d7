"""Which parts of a module are saved, and on which device they are placed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from muse_keras.tensorflow import internals


class Untracked:
    """Holds an object that a module uses and must not save.

    A module tracks, and saves, what its attributes are; not what an attribute
    of an ordinary object is.
    """

    def __init__(self, held: Any) -> None:
        self.object = held


def unsaved_zeros(name: str, shape: Sequence[int]) -> tf.Variable:
    """Return an int64 variable of zeros that no checkpoint holds.

    A cache of gigabytes starts empty: saving its zeros would only make the
    export larger and its loading slower. To TensorFlow it is an ordinary
    variable, so that each loaded copy of a version has its own. `ZeroFill`
    fills it.
    """
    variable = tf.Variable(
        tf.zeros(shape, tf.int64), trainable=False, name=name
    )
    internals.keep_out_of_checkpoints(variable)
    return variable


class ZeroFill(tf.saved_model.experimental.TrackableResource):
    """Fills variables with zeros when a SavedModel is loaded.

    Every loader runs the initialization after it has restored the rest:
    `tf.saved_model.load`, a session, and TensorFlow Serving.
    """

    def __init__(self, variables: Sequence[tf.Variable]) -> None:
        self._filled = list(variables)
        super().__init__()

    def _create_resource(self) -> tf.Tensor:
        # Nothing uses this handle, but loaders ask for one.
        return tf.raw_ops.VarHandleOp(
            dtype=tf.int64, shape=[], shared_name="zero_fill"
        )

    def _initialize(self) -> None:
        for variable in self._filled:
            variable.assign(tf.zeros(variable.shape, variable.dtype))


def declare_inputs(
    folder: Path, inputs: Mapping[str, Mapping[str, tf.TensorSpec]]
) -> None:
    """Tell clients the shapes of inputs, by signature.

    A graph does not declare the sizes that it asserts. What a signature
    declares is read by clients alone.
    """
    file = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for meta_graph in saved.meta_graphs:
        for signature, specs in inputs.items():
            declared = meta_graph.signature_def[signature].inputs
            for name, spec in specs.items():
                declared[name].tensor_shape.CopyFrom(spec.shape.as_proto())
    file.write_bytes(saved.SerializeToString(deterministic=True))


def clear_devices(folder: Path) -> None:
    """Leave the placement of a saved model to the machine that serves.

    TensorFlow pins the op that restores a variable to the device which the
    variable had here. A server would put the variable there as well: a table
    exported on a CPU would never reach the GPU.
    """
    file = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for meta_graph in saved.meta_graphs:
        graph = meta_graph.graph_def
        functions = (one.node_def for one in graph.library.function)
        for nodes in (graph.node, *functions):
            for node in nodes:
                node.device = ""
    file.write_bytes(saved.SerializeToString(deterministic=True))
    (folder / "fingerprint.pb").unlink(missing_ok=True)
    internals.write_fingerprint(folder)
