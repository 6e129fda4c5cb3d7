"""On which device a saved model lies: on the one that the server chooses."""

from pathlib import Path

from tensorflow.core.protobuf import saved_model_pb2

from muse_keras.tensorflow import internals

__all__ = ["clear_devices"]


def clear_devices(folder: Path) -> None:
    """Leave placement to the machine that serves.

    TensorFlow pins the op that restores a variable to the device which the
    variable had here. A server would put the variable there as well: a table
    exported on a CPU would never reach the GPU.
    """
    file = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for meta_graph in saved.meta_graphs:
        graph = meta_graph.graph_def
        for node in graph.node:
            node.device = ""
        for function in graph.library.function:
            for node in function.node_def:
                node.device = ""
    file.write_bytes(saved.SerializeToString(deterministic=True))
    (folder / "fingerprint.pb").unlink(missing_ok=True)
    internals.write_fingerprint(folder)
