"""What an export consists of, and which parts it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from muse_keras.tables import ItemTable
from serving.export import export_saved_model, kernel_report, next_version
from tests.serving.export.world import (
    DIM,
    MAX_HISTORY,
    SPARE_ROWS,
    K,
    World,
    feature_options,
    make_model,
    make_requests,
    rank_inputs,
    to_example,
)

tf = pytest.importorskip("tensorflow")

STOCK_ONLY = """
import sys

for name in ("keras", "tf_keras", "tensorflow_transform", "muse_keras",
             "serving", "tfx_pipeline", "tensorflow_text", "tfx_bsl"):
    sys.modules[name] = None

import numpy as np
import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])
given = np.load(sys.argv[2], allow_pickle=True)
ranked = model.signatures["rank"](
    **{k: tf.constant(given[k]) for k in given if k != "examples"}
)
served = model.signatures["serving_default"](
    examples=tf.constant(given["examples"])
)
np.savez(
    sys.argv[3],
    rank=ranked["click_probability"],
    serving_default=served["click_probability"],
)
"""


def test_stock_tensorflow_loads_it_in_another_place(
    world: World, tmp_path: Path
) -> None:
    """Moved, with the transform's own folder gone from view."""
    requests = make_requests(world.item_table, 6, seed=30)
    inputs = rank_inputs(requests)
    examples = np.array([to_example(r) for r in requests], object)
    np.savez(tmp_path / "in.npz", examples=examples, **inputs)
    moved = tmp_path / "7"
    subprocess.run(["cp", "-r", str(world.export.path), str(moved)], check=True)
    hidden = world.transform_output.with_name("hidden")
    world.transform_output.rename(hidden)
    try:
        subprocess.run(
            [sys.executable, "-c", STOCK_ONLY]
            + [str(moved), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")],
            check=True,
            cwd=tmp_path,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        )
    finally:
        hidden.rename(world.transform_output)
    expected = world.call("rank", **inputs)["click_probability"]
    with np.load(tmp_path / "out.npz") as got:
        np.testing.assert_allclose(got["rank"], expected, atol=1e-6)
        np.testing.assert_allclose(got["serving_default"], expected, atol=2e-6)


def test_one_copy_of_the_table_and_no_constants(world: World) -> None:
    checkpoint = str(world.export.path / "variables" / "variables")
    stored = tf.train.list_variables(checkpoint)
    table = world.item_table
    rows = table.num_items + 1 + SPARE_ROWS
    assert [s for _, s in stored].count([rows, DIM]) == 1
    assert [s for _, s in stored].count([table.num_items]) == 1
    from tensorflow.core.protobuf import saved_model_pb2

    graph = saved_model_pb2.SavedModel.FromString(
        (world.export.path / "saved_model.pb").read_bytes()
    ).meta_graphs[0]
    nodes = list(graph.graph_def.node)
    for function in graph.graph_def.library.function:
        nodes += function.node_def
    largest = max(
        node.attr["value"].tensor.ByteSize()
        for node in nodes
        if node.op == "Const"
        and node.attr["dtype"].type != tf.string.as_datatype_enum
    )
    assert largest < 500  # The table's 200 ids alone would be 1,600 bytes.
    # A pinned restore would keep a table exported here off a GPU there.
    assert [node.name for node in nodes if node.device] == []


def test_manifest(world: World) -> None:
    file = world.export.path / "assets.extra" / "muse_export.json"
    manifest = json.loads(file.read_text())
    assert manifest == world.export.manifest
    assert manifest["k"] == K
    assert manifest["max_history"] == MAX_HISTORY
    assert manifest["num_items"] == world.item_table.num_items
    assert manifest["source"] == {"run": "test"}
    assert (
        manifest["item_table"]["sha256"]["scl_int8.npy"]
        == world.item_table.manifest["files"]["scl_int8.npy"]["sha256"]
    )
    codes = manifest["variables"]["table.codes"]
    assert codes == {
        "dtype": "int8",
        "shape": [world.item_table.num_items + 1 + SPARE_ROWS, DIM],
        "bytes": world.item_table.codes.nbytes + SPARE_ROWS * DIM,
    }
    # Whatever the checkpoint holds is accounted for, but for bookkeeping.
    checkpoint = str(world.export.path / "variables" / "variables")
    reader = tf.train.load_checkpoint(checkpoint)
    dtypes = reader.get_variable_to_dtype_map()
    shapes = reader.get_variable_to_shape_map()
    stored = sum(
        dtypes[name].size * int(np.prod(shapes[name]))
        for name in shapes
        if dtypes[name] != tf.string and name != "save_counter"
    )
    # Every server makes its own user cache.
    unsaved = manifest["user_cache"]["bytes"]
    assert manifest["total_bytes"] == stored + unsaved
    assert "KiB of variables" in world.export.memory_summary()


def test_warmup_records_replay(world: World) -> None:
    prediction_log_pb2 = pytest.importorskip(
        "tensorflow_serving.apis.prediction_log_pb2"
    )
    file = world.export.path / "assets.extra" / "tf_serving_warmup_requests"
    names = []
    for record in tf.data.TFRecordDataset(str(file)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        assert request.model_spec.name == "muse"
        name = request.model_spec.signature_name
        outputs = world.loaded.signatures[name](
            **{
                key: tf.constant(tf.make_ndarray(value))
                for key, value in request.inputs.items()
            }
        )
        if "click_probability" in outputs:
            assert (outputs["click_probability"].numpy() > 0).any()
        names.append(name)
    signatures = ["rank", "explain", "embed", "upsert_items", "serving_default"]
    signatures += ["prefetch", "prefetch_rows", "resolve_items"]
    signatures += ["rank_cached", "user_cache"]
    assert names == signatures * 2
    assert world.export.manifest["warmup_records"] == len(names)


def export_parts(world: World) -> dict[str, Any]:
    """Return arguments of a second, good export."""
    return {
        "model": world.model,
        "item_table": world.item_table,
        "learned": world.vocabularies,
        "max_history": MAX_HISTORY,
    }


@pytest.mark.once
def test_din_without_transform_and_warmup(world: World, tmp_path: Path) -> None:
    model = make_model("din", world.item_table, world.vocabularies)
    base = tmp_path / "muse"
    for version in (1, 2):
        export = export_saved_model(
            next_version(base), **export_parts(world) | {"model": model}
        )
        assert export.path == base / str(version)
    assert sorted(os.listdir(base)) == ["1", "2"]
    loaded = tf.saved_model.load(str(export.path))
    assert set(loaded.signatures) == {"rank", "explain", "embed"}
    inputs = rank_inputs(make_requests(world.item_table, 3, seed=31))
    shown = loaded.signatures["explain"](
        **{k: tf.constant(v) for k, v in inputs.items()}
    )
    real = np.count_nonzero(inputs["behavior_item_ids"], axis=1)
    found = (shown["behavior_indices"].numpy() >= 0).sum(axis=2)
    for b, c in np.argwhere(inputs["candidate_item_ids"] != 0):
        assert found[b, c] == min(real[b], model.recent)
    assert kernel_report(export.path, "explain").passed


def test_next_version_ignores_other_names(tmp_path: Path) -> None:
    assert next_version(tmp_path / "none").name == "1"
    for name in ("9", "10", ".export-11.x", "latest"):
        (tmp_path / name).mkdir()
    assert next_version(tmp_path) == tmp_path / "11"


def test_never_overwrites(world: World) -> None:
    with pytest.raises(FileExistsError, match="new version"):
        export_saved_model(world.export.path, **export_parts(world))


@pytest.mark.once
def test_a_failure_leaves_nothing(world: World, tmp_path: Path) -> None:
    """A warmup record that fails would keep a version from loading."""
    bad = make_requests(world.item_table, 1, seed=32)[0]
    bad["behavior_category"] = np.zeros(99, np.int64)
    with pytest.raises(ValueError, match="warmup_examples.*'rank'"):
        export_saved_model(
            tmp_path / "1",
            **export_parts(world),
            warmup_examples=[to_example(bad)],
        )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("item_city", lambda v: v[:-1], r"item_sizes.*`learned` say"),
        ("item_city", lambda v: v * 0, r"\['item_city'\].*not contain 0"),
        (
            "item_category",
            lambda v: np.full_like(v, 3),
            r"learned\['item_category'\].*unique",
        ),
        ("user_profile_2", lambda v: v * 0.5, "must be integers"),
    ],
)
def test_refuses_vocabularies(
    world: World, tmp_path: Path, field: str, change: Any, message: str
) -> None:
    vocabularies = world.vocabularies | {
        field: change(world.vocabularies[field])
    }
    with pytest.raises(ValueError, match=message):
        export_saved_model(
            tmp_path / "1",
            **export_parts(world) | {"learned": vocabularies},
        )


def test_refuses_a_missing_vocabulary(world: World, tmp_path: Path) -> None:
    vocabularies = dict(world.vocabularies)
    del vocabularies["item_province"]
    with pytest.raises(ValueError, match="item_province"):
        export_saved_model(
            tmp_path / "1",
            **export_parts(world) | {"learned": vocabularies},
        )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"item_sizes": {"category": 9, "brand": 3}},
            "`item_table` must have the feature 'brand'.*category, city",
        ),
        ({"user_sizes": {"id": 3}}, "Two tensors .* named 'user_id'"),
    ],
)
def test_refuses_features_that_do_not_fit(
    world: World, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    from muse_keras.models import DIN

    options = feature_options(world.vocabularies) | changed
    model = DIN(world.item_table.num_items, **options)
    with pytest.raises(ValueError, match=message):
        export_saved_model(
            tmp_path / "1", **export_parts(world) | {"model": model}
        )


def test_refuses_a_table_the_model_does_not_hold(
    world: World, tmp_path: Path
) -> None:
    table = world.item_table
    other = ItemTable.write(
        tmp_path / "table",
        table.item_ids,
        -table.codes[1:],
        {name: raw[1:] for name, raw in table.features.items()},
        source="other",
    )
    with pytest.raises(ValueError, match=r"model\.table\.assign"):
        export_saved_model(
            tmp_path / "1", **export_parts(world) | {"item_table": other}
        )


def test_refuses_weights_that_are_not_finite(
    world: World, tmp_path: Path
) -> None:
    model = make_model("muse", world.item_table, world.vocabularies)
    kernel = model.tower.trainable_variables[-1]
    kernel.assign(np.full(tuple(kernel.shape), np.nan, "float32"))
    with pytest.raises(ValueError, match="not finite"):
        export_saved_model(
            tmp_path / "1", **export_parts(world) | {"model": model}
        )
