"""What older releases of TensorFlow refuse, told from the graph alone."""

import json
import pathlib
import shutil

import pytest

from tests.serving.export.world import World

tf = pytest.importorskip("tensorflow")

from tensorflow.core.protobuf import saved_model_pb2  # noqa: E402

from serving.export import op_compatibility  # noqa: E402


def test_stacks() -> None:
    assert op_compatibility.served_by("2.16.2") == ("2.16", "2.19", "2.20")
    assert op_compatibility.served_by("2.21.0") == ("2.19", "2.20")
    with pytest.raises(ValueError, match="2.15.1 is older"):
        op_compatibility.served_by("2.15.1")


def test_an_export_is_served_by_the_releases_of_its_stack(
    world: World,
) -> None:
    assert not op_compatibility.problems(world.export.path)


def test_the_table_has_what_this_release_registers() -> None:
    """Else a release that it names was written down wrongly."""
    release = ".".join(tf.__version__.split(".")[:2])
    table = op_compatibility._TABLE.read_text(encoding="utf-8").splitlines()
    if release not in json.loads(table[0]):
        pytest.skip(f"the table has no {release}")
    versions, ops = op_compatibility._registered(release)
    assert versions[0] == tf.version.GRAPH_DEF_VERSION
    assert {"AddV2", "ResourceGather", "TopKV2", "ParseExampleV2"} <= set(ops)
    assert len(ops) > 1_500


class Changed:
    """A copy of an export, its graph changed."""

    def __init__(self, world: World, folder: pathlib.Path) -> None:
        self.folder = folder
        shutil.copy(world.export.path / "saved_model.pb", folder)
        self.file = folder / "saved_model.pb"
        self.saved = saved_model_pb2.SavedModel.FromString(
            self.file.read_bytes()
        )
        self.meta = self.saved.meta_graphs[0]

    def node(self, op: str):
        """A node in the function library."""
        return next(
            node
            for function in self.meta.graph_def.library.function
            for node in function.node_def
            if node.op == op
        )

    def problems(self) -> list[str]:
        self.file.write_bytes(self.saved.SerializeToString())
        return op_compatibility.problems(self.folder, ["2.19"])


@pytest.fixture
def changed(world: World, tmp_path: pathlib.Path) -> Changed:
    return Changed(world, tmp_path)


def test_unknown_op(changed: Changed) -> None:
    node = changed.node("AddV2")
    node.op, name = "AddV9", node.name
    assert changed.problems() == [
        f"TensorFlow Serving 2.19: no op AddV9 (node {name})"
    ]


def test_unknown_attribute_even_with_its_default(changed: Changed) -> None:
    node = changed.node("ConcatV2")
    node.attr["grad_c"].b = False
    node.attr["_for_the_runtime"].b = True
    (problem,) = changed.problems()
    assert "op ConcatV2 has no attribute 'grad_c'" in problem


def test_type_that_is_not_allowed(changed: Changed) -> None:
    node = changed.node("Sigmoid")
    node.attr["T"].type = tf.int8.as_datatype_enum
    (problem,) = changed.problems()
    assert "op Sigmoid does not take int8 as 'T'" in problem


def test_attribute_that_is_left_out(changed: Changed) -> None:
    node = changed.node("Sigmoid")
    del node.attr["T"]
    (problem,) = changed.problems()
    assert "op Sigmoid needs an attribute 'T'" in problem


def test_another_default(changed: Changed) -> None:
    # TensorFlow leaves out what is the default where it exports.
    assert "sorted" not in changed.node("TopKV2").attr
    assert not changed.problems()
    for op in changed.meta.meta_info_def.stripped_op_list.op:
        for attribute in op.attr:
            if (op.name, attribute.name) == ("TopKV2", "sorted"):
                attribute.default_value.b = False
    (problem,) = changed.problems()
    assert "op TopKV2 has another default of 'sorted'" in problem


def test_another_input(changed: Changed) -> None:
    for op in changed.meta.meta_info_def.stripped_op_list.op:
        if op.name == "Sigmoid":
            op.input_arg.add(name="more", type=1)
    assert changed.problems() == [
        "TensorFlow Serving 2.19: op Sigmoid has other inputs"
    ]


def test_version_of_the_graph_format(changed: Changed) -> None:
    changed.meta.graph_def.versions.min_consumer = 9_999
    (problem,) = changed.problems()
    assert "version 9999 of the graph format" in problem


def test_unknown_release(world: World) -> None:
    with pytest.raises(ValueError, match="`releases` must be among"):
        op_compatibility.problems(world.export.path, ["2.3"])
