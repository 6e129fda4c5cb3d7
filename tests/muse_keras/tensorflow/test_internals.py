"""A test for each part of TensorFlow that is not public, by what it guards."""

import ast
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from tensorflow.core.protobuf.fingerprint_pb2 import (  # noqa: E402
    FingerprintDef,
)

from muse_keras.tensorflow import internals  # noqa: E402

pytestmark = pytest.mark.tf
ROOT = Path(__file__).resolve().parents[3]


def test_registered_kernels_guards_the_proof_of_gpu_kernels() -> None:
    devices = {k.device_type for k in internals.registered_kernels("MatMul")}
    assert {"CPU", "GPU"} <= devices
    (kernel,) = [
        kernel
        for kernel in internals.registered_kernels("VarHandleOp")
        if kernel.device_type == "CPU"
    ]
    assert kernel.op == "VarHandleOp"
    assert not internals.registered_kernels("NoSuchOp")


def test_op_definition_guards_the_proof_of_gpu_kernels() -> None:
    definition = internals.op_definition("ResourceGather")
    assert [arg.name for arg in definition.input_arg] == ["resource", "indices"]
    assert internals.op_definition("NoSuchOp") is None


def test_write_fingerprint_guards_the_export(tmp_path: Path) -> None:
    tf.saved_model.save(tf.Module(), str(tmp_path))
    written = tmp_path / "fingerprint.pb"
    before = FingerprintDef.FromString(written.read_bytes())
    written.unlink()
    internals.write_fingerprint(tmp_path)
    after = FingerprintDef.FromString(written.read_bytes())
    # Newer releases draw a number of 38 or 39 digits at each writing.
    for one in (before, after):
        if "uuid" in one.DESCRIPTOR.fields_by_name:
            one.ClearField("uuid")
    assert after == before


def test_replica_variable_guards_training_on_replicas() -> None:
    strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
    with strategy.scope():
        variable = tf.Variable([1.0, 2.0])

    @tf.function
    def gathered() -> tf.Tensor:
        def run() -> tf.Tensor:
            return tf.gather(internals.replica_variable(variable), [1])

        return strategy.run(run)

    assert gathered().numpy().tolist() == [2.0]


def test_variable_without_value_guards_exports_of_tables_in_files() -> None:
    # 8 TB, if it had a value.
    made = internals.variable_without_value("table", [1 << 40, 8], tf.int8)
    assert made.shape == (1 << 40, 8) and made.dtype == tf.int8
    assert not made.is_initialized()


def test_keep_out_of_checkpoints_guards_the_user_cache(tmp_path: Path) -> None:
    module = tf.Module()
    module.saved = tf.Variable([1.0])
    module.unsaved = tf.Variable([1.0])
    internals.keep_out_of_checkpoints(module.unsaved)

    def read() -> dict[str, tf.Tensor]:
        return {"sum": module.saved + module.unsaved}

    function = tf.function(read).get_concrete_function()
    tf.saved_model.save(
        module, str(tmp_path), signatures={"serving_default": function}
    )
    names = [
        name
        for name, _ in tf.train.list_variables(
            str(tmp_path / "variables" / "variables")
        )
    ]
    assert any("saved/" in name for name in names)
    assert not any("unsaved" in name for name in names)


def test_run_session_guards_the_embedded_server() -> None:
    """It takes a shape that the placeholder does not have, and a deadline."""
    with tf.Graph().as_default() as graph:
        fed = tf.compat.v1.placeholder(tf.float32, [2])
        total = tf.reduce_sum(fed)
        endless = tf.while_loop(
            lambda i: i < 2.0, lambda i: i * fed[0], [total]
        )
    with tf.compat.v1.Session(graph=graph) as session:
        handle = internals.session_output(fed)

        def run(fetched: tf.Tensor, value: list[float], limit: int | None):
            return internals.run_session(
                session,
                {handle: np.array(value, np.float32)},
                [internals.session_output(fetched)],
                limit,
            )

        assert run(total, [1.0, 2.0, 3.0], None)[0] == 6.0
        assert run(total, [1.0, 2.0, 3.0], 60_000)[0] == 6.0
        with pytest.raises(tf.errors.DeadlineExceededError):
            run(endless[0], [1.0, 0.0], 50)


def test_free_graph_guards_the_memory_of_the_embedded_server(tmp_path) -> None:
    """What a version held is free without a collection of garbage."""
    module = tf.Module()
    module.table = tf.Variable([1.0, 2.0])

    @tf.function(input_signature=[tf.TensorSpec([2])])
    def looped(x):
        (last,) = tf.while_loop(
            lambda x: x[0] < 9.0, lambda x: (x + module.table,), [x]
        )
        return {"y": last}

    tf.saved_model.save(module, tmp_path, signatures={"looped": looped})
    gc.disable()
    try:
        graph = tf.Graph()
        session = tf.compat.v1.Session(graph=graph)
        meta_graph = tf.compat.v1.saved_model.load(
            session, ["serve"], str(tmp_path)
        )
        signature = meta_graph.signature_def["looped"]
        fed = {signature.inputs["x"].name: [8.0, 0.0]}
        assert session.run(signature.outputs["y"].name, fed)[1] == 2.0
        left = weakref.ref(graph), weakref.ref(session)
        session.close()
        internals.free_graph(graph)
        del graph, session
        assert [of() for of in left] == [None, None]
    finally:
        gc.enable()


MODULES = {
    "muse_keras/tensorflow/internals.py",
    "muse_keras/_keras_internals.py",
    "tfx_pipeline/tfx_internals.py",
}


def test_no_other_module_reaches_into_these_packages() -> None:
    """Imports beside the public ones, and private names that are not ours."""
    packages = ("benchmarks", "muse_keras", "muse_tools", "serving")
    trees = {
        str(path.relative_to(ROOT)): ast.parse(path.read_text("utf-8"))
        for package in (*packages, "tfx_pipeline")
        for path in (ROOT / package).rglob("*.py")
    }
    assert trees.keys() >= MODULES
    for name in MODULES:
        del trees[name]
    assert not reaches(trees)


@pytest.mark.parametrize(
    "line",
    [
        "from tensorflow.python.framework import ops",
        "import keras.src.backend",
        "from tfx.types import standard_artifacts",
        "layer._tracker",
        "layer._tracker = None",
        "del layer._tracker",
        "layer._tracker += 1",
    ],
)
def test_what_reaches_into_a_package_is_found(line: str) -> None:
    ours = "class Own:\n  _a = 1\n  def f(self, own):\n"
    ours += "    self._b = own._a\n    own._b = 2\n"
    assert reaches({"own.py": ast.parse(ours)}) == []
    assert len(reaches({"own.py": ast.parse(f"{ours}{line}\n")})) == 1


def reaches(trees: dict[str, ast.Module]) -> list[str]:
    """Return where modules use names that are neither public nor ours."""
    nodes = [(n, name) for name, t in trees.items() for n in ast.walk(t)]
    # Public names of named tuples, of LMDB and of `os`; a method of
    # `OptimizerHooks`.
    ours = {"_replace", "_asdict", "_Database", "_exit", "_index_of"}
    definitions = ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef
    for node, _ in nodes:
        if isinstance(node, definitions):
            ours.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            ours.add(node.id)
        elif isinstance(node, ast.Attribute) and (
            isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            ours.add(node.attr)
    found = []
    for node, name in nodes:
        imported = []
        if isinstance(node, ast.ImportFrom) and not node.level:
            imported = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute):
            private = node.attr.startswith("_") and node.attr[1] != "_"
            if private and node.attr not in ours:
                found.append(f"{name}:{node.lineno} {node.attr}")
        found += [
            f"{name}:{node.lineno} {module}"
            for module in imported
            if module.startswith(("tensorflow.python", "keras.src"))
            or (
                module.startswith("tfx.")
                and not f"{module}.".startswith("tfx.v1.")
            )
        ]
    return found


def test_create_without_broadcast_guards_the_start_of_workers() -> None:
    """Workers themselves are in tests/tfx_pipeline/training/test_workers.py."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    name = "_get_variable_creator_initial_value"
    assert name in vars(type(strategy.extended))
    internals.create_without_broadcast(strategy)
    value = tf.constant([3, 4], tf.int8)
    create = getattr(strategy.extended, name)
    assert create(0, "", None, initial_value=value) is value
    with strategy.scope():
        made = tf.Variable(value)
    np.testing.assert_array_equal(made, [3, 4])
