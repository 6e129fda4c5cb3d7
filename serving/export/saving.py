"""Selects the saved parts of a module and the devices of its variables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from muse_keras.tables.device_shards import assign_zeros, restore_shards
from muse_keras.tensorflow import internals


class Untracked:
    """Holds an object that a module uses but must not save.

    A module tracks and saves the values of its attributes, but not attributes
    of ordinary objects such as this one.
    """

    def __init__(self, held: Any) -> None:
        self.object = held


def unsaved_zeros(name: str, shape: Sequence[int]) -> tf.Variable:
    """Return an int64 variable of zeros that is not saved in checkpoints.

    A cache of gigabytes starts empty, so saving its zeros would only enlarge
    the export and slow down loading. For TensorFlow it is an ordinary variable,
    so each loaded copy of a version has its own. `ZeroFill` initializes it.
    """
    variable = tf.Variable(
        tf.zeros(shape, tf.int64), trainable=False, name=name
    )
    internals.keep_out_of_checkpoints(variable)
    return variable


class ZeroFill(tf.saved_model.experimental.TrackableResource):
    """Fills variables with zeros when a SavedModel is loaded.

    Every loader runs this initialization after it has restored the other parts:
    `tf.saved_model.load`, a session, and TensorFlow Serving.
    """

    def __init__(self, variables: Sequence[tf.Variable]) -> None:
        self._filled = list(variables)
        super().__init__()

    def _create_resource(self) -> tf.Tensor:
        # The handle is not used, but loaders require one.
        return tf.raw_ops.VarHandleOp(
            dtype=tf.int64, shape=[], shared_name="zero_fill"
        )

    def _initialize(self) -> None:
        for variable in self._filled:
            assign_zeros(variable)


class TableFiles(tf.Module):
    """Tables in files of the SavedModel, which are read when it is loaded.

    Args:
        prefix: of a checkpoint by `row_files`, whose files become assets.
        shards: variables of each table, by its name there.
        num_rows: rows of each table there.
    """

    def __init__(
        self,
        prefix: Path,
        shards: Mapping[str, Sequence[tf.Variable]],
        num_rows: Mapping[str, int],
    ) -> None:
        super().__init__(name="table_files")
        # A resource does not track its attributes, a module does.
        index, *self.data = (
            tf.saved_model.Asset(str(file))
            for file in (
                f"{prefix}.index",
                *sorted(prefix.parent.glob(f"{prefix.name}.data-*")),
            )
        )
        self.index = index
        self.loader = _TableLoader(index, shards, num_rows)


class _TableLoader(tf.saved_model.experimental.TrackableResource):
    """Reads tables; arguments are those of `TableFiles`."""

    def __init__(
        self,
        index: tf.saved_model.Asset,
        shards: Mapping[str, Sequence[tf.Variable]],
        num_rows: Mapping[str, int],
    ) -> None:
        self._index = index
        self._shards = shards
        self._num_rows = num_rows
        super().__init__()

    def _create_resource(self) -> tf.Tensor:
        # The handle is not used, but loaders require one.
        return tf.raw_ops.VarHandleOp(
            dtype=tf.int64, shape=[], shared_name="table_files"
        )

    def _initialize(self) -> None:
        path = self._index.asset_path
        prefix = tf.strings.regex_replace(path, r"\.index$", "")
        for name, parts in self._shards.items():
            restore_shards(parts, prefix, name, self._num_rows[name])


def declare_inputs(
    folder: Path, inputs: Mapping[str, Mapping[str, tf.TensorSpec]]
) -> None:
    """Store the shapes of inputs for clients, by signature.

    A graph does not declare the sizes that it asserts. Only clients read what
    a signature declares.
    """
    file = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for meta_graph in saved.meta_graphs:
        for signature, specs in inputs.items():
            declared = meta_graph.signature_def[signature].inputs
            for name, spec in specs.items():
                declared[name].tensor_shape.CopyFrom(spec.shape.as_proto())
    file.write_bytes(saved.SerializeToString(deterministic=True))


def place_variables(
    folder: Path, devices: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Let the serving machine decide the placement of a saved model.

    TensorFlow pins the op that restores a variable to the device of the
    variable at export. A server would place the variable there as well, so
    that a table exported on a CPU would never be on the GPU.

    Args:
        folder: the SavedModel.
        devices: the device of some variables, by their names; a server places
            what reads them there, too.
    """
    file = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for meta_graph in saved.meta_graphs:
        graph = meta_graph.graph_def
        functions = (one.node_def for one in graph.library.function)
        for nodes in (graph.node, *functions):
            for node in nodes:
                node.device = (
                    devices.get(node.name, "")
                    if node.op == "VarHandleOp"
                    else ""
                )
    file.write_bytes(saved.SerializeToString(deterministic=True))
    (folder / "fingerprint.pb").unlink(missing_ok=True)
    internals.write_fingerprint(folder)
