"""The proof that a signature's data path runs on a GPU, and its limits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.export import kernel_report
from serving.export.gpu_kernels import allows
from serving.export.graph_walk import DATA, WAIT
from serving.export.kernel_report import main
from tests.serving.export.kinds import (
    Kinds,
    batched,
    export_spread,
    make_requests,
)
from tests.serving.export.world import World

tf = pytest.importorskip("tensorflow")

from tensorflow.core.framework import (  # noqa: E402
    kernel_def_pb2,
    node_def_pb2,
)

ROOT = Path(__file__).resolve().parents[3]

IDS = tf.TensorSpec([None], tf.int64, name="ids")


def save(tmp_path: Path, function: Any, **tracked: Any) -> str:
    """Save a function of int64 ids as the signature `rank`."""
    module = tf.Module()
    for name, value in tracked.items():
        setattr(module, name, value)
    concrete = tf.function(function, autograph=False).get_concrete_function(IDS)
    tf.saved_model.save(module, str(tmp_path), signatures={"rank": concrete})
    return str(tmp_path)


def problems(path: str) -> dict[str, str]:
    """Return the violations, op to problem."""
    return {u.op: u.problem for u in kernel_report(path, "rank").violations}


@pytest.mark.parametrize("signature", ["rank", "explain", "embed"])
def test_every_op_between_ids_and_scores_has_a_gpu_kernel(
    world: World, signature: str
) -> None:
    report = kernel_report(world.export.path, signature)
    assert report.passed, str(report)
    waits = [use.example for use in report.uses if use.kind == WAIT]
    assert len(waits) == (signature != "embed")
    assert all("gsu_top_k" in where for where in waits)


def test_the_walk_reaches_the_table_and_the_tower(world: World) -> None:
    """It would also pass if it saw nothing."""
    report = kernel_report(world.export.path, "rank")
    data = {(use.op, use.dtypes) for use in report.uses if use.kind == DATA}
    for dtype in ("int8", "uint8", "uint32", "int64", "float32"):
        assert ("ResourceGatherNd", f"dtype={dtype} Tindices=int64") in data
    assert ("ResourceGather", "dtype=float32 Tindices=int64") in data
    assert ("LowerBound", "T=int64 out_type=int64") in data
    assert ("TopKV2", "T=float32 Tk=int32 index_type=int32") in data
    assert {"DenseBincount", "BatchMatMulV2", "Softmax", "Sigmoid"} <= {
        op for op, _ in data
    }
    assert report.count(DATA) > 300


def test_serving_default_parses_on_the_host(world: World) -> None:
    report = kernel_report(world.export.path, "serving_default")
    found = {use.op for use in report.violations}
    assert "ParseExampleV2" in found
    assert any("LookupTable" in op for op in found)


def test_catches_a_hash_table(tmp_path: Path) -> None:
    keys = tf.constant([1, 2], tf.int64)
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(keys, keys), 0
    )
    path = save(tmp_path, lambda ids: {"y": table.lookup(ids)}, table=table)
    assert problems(path) == {"LookupTableFindV2": "no GPU kernel"}


def test_catches_a_gather_of_int8_values_but_not_of_the_variable(
    tmp_path: Path,
) -> None:
    codes = tf.Variable(np.ones((4, 2), np.int8))
    bad = save(
        tmp_path / "bad",
        lambda ids: {"y": tf.gather(codes.read_value(), ids)},
        codes=codes,
    )
    assert problems(bad) == {"GatherV2": "no GPU kernel"}
    good = save(
        tmp_path / "good", lambda ids: {"y": tf.gather(codes, ids)}, codes=codes
    )
    assert problems(good) == {}


def test_catches_int32_arithmetic_and_variables(tmp_path: Path) -> None:
    weights = tf.Variable([1, 2, 3], dtype=tf.int32)

    def function(ids: Any) -> dict[str, Any]:
        return {"y": tf.gather(weights, tf.cast(ids, tf.int32) + 1)}

    found = problems(save(tmp_path, function, weights=weights))
    assert set(found) == {"AddV2", "ResourceGather"}
    assert "on the host" in found["AddV2"]


def test_looks_into_branches_and_loops(tmp_path: Path) -> None:
    def function(ids: Any) -> dict[str, Any]:
        some = tf.cond(
            tf.size(ids) > 3,
            lambda: tf.strings.length(tf.strings.as_string(ids)),
            lambda: tf.zeros_like(ids, tf.int32),
        )
        _, total = tf.while_loop(
            lambda i, x: i < 3,
            lambda i, x: (i + 1, tf.math.segment_sum(x, tf.zeros_like(ids))),
            (0, tf.cast(ids, tf.int16)),
        )
        return {"y": some, "z": total}

    found = problems(save(tmp_path, function))
    assert {"AsString", "StringLength"} <= set(found)
    assert any(op.startswith("SegmentSum") for op in found)


def test_catches_a_condition_the_host_waits_for(tmp_path: Path) -> None:
    def function(ids: Any) -> dict[str, Any]:
        return {
            "y": tf.cond(
                tf.reduce_any(ids > 3), lambda: ids, lambda: tf.zeros_like(ids)
            )
        }

    assert any(
        "condition" in p for p in problems(save(tmp_path, function)).values()
    )


def test_only_the_search_may_wait_in_a_loop(tmp_path: Path) -> None:
    def function(ids: Any) -> dict[str, Any]:
        (halved,) = tf.while_loop(
            lambda x: tf.reduce_any(x > 3), lambda x: (x // 2,), (ids,)
        )
        return {"y": halved}

    assert any(
        "condition" in p for p in problems(save(tmp_path, function)).values()
    )


def test_assertions_may_look_at_shapes_but_not_at_values(
    tmp_path: Path,
) -> None:
    def on_shape(ids: Any) -> dict[str, Any]:
        tf.debugging.assert_less(tf.shape(ids)[0], 9)
        return {"y": ids + 1}

    def on_value(ids: Any) -> dict[str, Any]:
        tf.debugging.assert_positive(ids)
        return {"y": ids + 1}

    assert problems(save(tmp_path / "shape", on_shape)) == {}
    assert problems(save(tmp_path / "value", on_value))


def test_catches_a_pinned_device(tmp_path: Path) -> None:
    def function(ids: Any) -> dict[str, Any]:
        with tf.device("/CPU:0"):
            return {"y": ids * 2}

    assert "pinned" in problems(save(tmp_path, function))["Mul"]


@pytest.mark.parametrize(
    ("policy", "allowed"), [(b"", True), (b"IGNORE", True), (b"ERROR", False)]
)
def test_a_kernel_may_be_for_some_strings_only(
    policy: bytes, allowed: bool
) -> None:
    """As that of `GatherNd` in TensorFlow 2.21 is."""
    kernel = kernel_def_pb2.KernelDef(op="GatherNd", device_type="GPU")
    types = kernel.constraint.add(name="Tparams").allowed_values.list
    types.type.append(tf.int64.as_datatype_enum)
    texts = kernel.constraint.add(name="bad_indices_policy").allowed_values.list
    texts.s.extend([b"", b"DEFAULT", b"IGNORE"])
    node = node_def_pb2.NodeDef(op="GatherNd")
    node.attr["Tparams"].type = tf.int64.as_datatype_enum
    node.attr["bad_indices_policy"].s = policy
    assert allows(kernel, node) is allowed
    node.attr["Tparams"].type = tf.string.as_datatype_enum
    assert not allows(kernel, node)


def test_the_table_of_the_docs_is_that_of_this_tensorflow(
    world: World, kinds: Kinds, gpu_kernels: Any, tmp_path: Path
) -> None:
    table = gpu_kernels.read(gpu_kernels.FILE.read_text(encoding="utf-8"))
    stated = {
        row: states.get(tf.__version__, "") for row, states in table.items()
    }
    spread = export_spread(kinds, tmp_path / "1")
    used: dict[Any, str] = {}
    for export in (world.export, kinds.export, spread):
        used |= gpu_kernels.used(export.path)
    assert {row: stated.get(row, "") for row in used} == used
    # Without GPUs a server places what is spread over them elsewhere.
    inputs = batched(make_requests(kinds.item_table, 3, 8))
    loaded = tf.saved_model.load(str(spread.path)).signatures["rank"]
    given = {name: tf.constant(value) for name, value in inputs.items()}
    np.testing.assert_array_equal(
        loaded(**given)["click_probability"],
        kinds.call("rank", **inputs)["click_probability"],
    )
    releases = set().union(*table.values())
    assert releases == {"2.16.2", "2.21.0"}


def test_names_the_signatures_there_are(world: World) -> None:
    with pytest.raises(ValueError, match="explain.*Received: 'nosuch'"):
        kernel_report(world.export.path, "nosuch")


def test_command(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(world.export.path)]) == 0
    assert (
        f"'rank' in TensorFlow {tf.__version__}: passed"
        in capsys.readouterr().out
    )
    assert main([str(world.export.path), "serving_default"]) == 1
    assert "no GPU kernel" in capsys.readouterr().out
    assert main([]) == 2
