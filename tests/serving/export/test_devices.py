"""An export whose large tables are spread over several devices."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from muse_keras.tables.row_shards import divided_rows, is_held
from serving.export import Export, UserCacheConfig, export_saved_model
from tests.serving.export.world import (
    DIM,
    MAX_HISTORY,
    SPARE_ROWS,
    World,
    make_model,
    make_requests,
    rank_inputs,
)

tf = pytest.importorskip("tensorflow")

# The kernels of both releases are compared in test_kernel_report.
pytestmark = pytest.mark.once

CPUS = ("CPU:0", "CPU:1", "CPU:2")


class Served:
    """A version in a session with three devices, as a server loads it."""

    def __init__(self, path: Path) -> None:
        self.session = tf.compat.v1.Session(
            graph=tf.Graph(),
            config=tf.compat.v1.ConfigProto(
                device_count={"CPU": 3}, allow_soft_placement=True
            ),
        )
        with self.session.graph.as_default():
            self.signatures = tf.compat.v1.saved_model.load(
                self.session, ["serve"], str(path)
            ).signature_def

    def call(self, signature: str, trace: Any = None, **inputs: Any) -> Any:
        defined = self.signatures[signature]
        return self.session.run(
            {name: one.name for name, one in defined.outputs.items()},
            {defined.inputs[name].name: one for name, one in inputs.items()},
            options=tf.compat.v1.RunOptions(
                trace_level=tf.compat.v1.RunOptions.FULL_TRACE
            ),
            run_metadata=trace,
        )


@pytest.fixture(scope="module")
def versions(world: World, tmp_path_factory: Any) -> dict[str, Any]:
    spread = export_saved_model(
        tmp_path_factory.mktemp("devices") / "1",
        model=world.model,
        item_table=world.item_table,
        learned=world.vocabularies,
        max_history=MAX_HISTORY,
        user_cache=UserCacheConfig(users=16, ways=4, max_length=1100),
        devices=CPUS,
    )
    return {
        "whole": world.export,
        "spread": spread,
        "unheld": export_unheld(world, tmp_path_factory.mktemp("unheld") / "1"),
    }


def export_unheld(world: World, path: Path) -> Export:
    """Export a model that holds no rows of its large tables."""
    with divided_rows(world.item_table.num_items + 1, held=False):
        model = make_model(
            "muse", world.item_table, world.vocabularies, SPARE_ROWS
        )
    wanted = {v.path: v for v in world.model.trainable_variables}
    tables = {}
    for variable in model.trainable_variables:
        trained = wanted[variable.path]
        if is_held(variable):
            variable.assign(trained)
        else:
            tables[variable.path] = np.asarray(trained)
    assert [*tables] == ["item_embedding/embeddings"]
    assert model.table.codes.shape[0] == 1
    return export_saved_model(
        path,
        model=model,
        item_table=world.item_table,
        learned=world.vocabularies,
        max_history=MAX_HISTORY,
        user_cache=UserCacheConfig(users=16, ways=4, max_length=1100),
        tables=tables,
    )


def test_rows_of_a_table_that_nobody_holds_must_be_given(
    world: World, tmp_path: Path
) -> None:
    with divided_rows(world.item_table.num_items + 1, held=False):
        model = make_model("muse", world.item_table, world.vocabularies, 0)
    path = "item_embedding/embeddings"
    rows = np.zeros((world.item_table.num_items + 1, 8), np.float32)
    for tables, message in (
        ({}, "`tables`.*item_embedding"),
        ({path: rows[:50]}, r"must be an array of \(.*shape=\(50, 8\)"),
        ({path: rows[:, :4]}, "must be an array of"),
        ({path: [1.0]}, "must be an array of"),
        ({path: rows.astype(np.float64)}, "must be float32.*float64"),
        ({path: rows, "other": rows}, "and no others"),
        ({path: rows, model.table.codes.path: rows}, "and no others"),
    ):
        with pytest.raises(ValueError, match=message):
            export_saved_model(
                tmp_path / "1",
                model=model,
                item_table=world.item_table,
                learned=world.vocabularies,
                tables=tables,
            )
    for devices in ("CPU:0", ("banana",), ("/device:CPU:0",)):
        with pytest.raises(ValueError, match="`devices`"):
            export_saved_model(
                tmp_path / "1",
                model=model,
                item_table=world.item_table,
                learned=world.vocabularies,
                devices=devices,
            )


def test_a_spread_version_answers_as_a_whole_one(
    world: World, versions: dict[str, Any]
) -> None:
    inputs = rank_inputs(make_requests(world.item_table, 5, seed=3))
    fresh = {
        "item_ids": np.array([4242, int(world.item_table.item_ids[3])]),
        "embedding": np.eye(2, DIM, dtype=np.float32),
        **{
            f"item_{name}": np.array([1, 2])
            for name in world.item_table.features
        },
    }
    behaviors = {
        name: inputs[name] for name in inputs if not name.startswith("cand")
    }
    cached = {name: inputs[name] for name in ("user_id", "candidate_item_ids")}
    answers = []
    for version in versions.values():
        served = Served(version.path)
        found = {
            "rank": served.call("rank", **inputs),
            "explain": served.call("explain", **inputs),
            "prefetch": served.call("prefetch", **behaviors),
            "rank_cached": served.call("rank_cached", **cached),
            "upsert_items": served.call("upsert_items", **fresh),
        }
        for name in ("rank", "embed"):
            given = (
                inputs if name == "rank" else {"item_ids": fresh["item_ids"]}
            )
            found[f"{name} with fresh items"] = served.call(name, **given)
        found["upsert_items"].pop("load_id")
        answers.append(found)
    whole, *others = answers
    for other in others:
        for signature, outputs in whole.items():
            for name, values in outputs.items():
                np.testing.assert_array_equal(
                    other[signature][name], values, f"{signature} {name}"
                )
        np.testing.assert_array_equal(
            other["embed with fresh items"]["embedding"], fresh["embedding"]
        )


def test_rows_are_divided_and_no_table_is_whole(
    versions: dict[str, Any],
) -> None:
    whole, spread = (
        versions[name].manifest["variables"] for name in ("whole", "spread")
    )
    tables = {name for name in whole if name not in spread}
    assert any("codes" in name for name in tables)
    assert any("inverse_norms" in name for name in tables)
    assert any("embeddings" in name for name in tables)
    for name in tables:
        shards = [spread[f"{name}.shard_{n}"]["shape"] for n in range(3)]
        sizes = [shape[0] for shape in shards]
        assert sum(sizes) == whole[name]["shape"][0]
        assert max(sizes) - min(sizes) <= 1
    assert spread.keys() - whole.keys() == {
        f"{name}.shard_{n}" for name in tables for n in range(3)
    }
    assert versions["spread"].manifest["devices"] == list(CPUS)


def test_each_device_reads_its_own_rows(
    world: World, versions: dict[str, Any]
) -> None:
    inputs = rank_inputs(make_requests(world.item_table, 5, seed=3))
    trace = tf.compat.v1.RunMetadata()
    Served(versions["spread"].path).call("rank", trace, **inputs)
    readers = {
        stats.device.rpartition("device:")[2]
        for stats in trace.step_stats.dev_stats
        for node in stats.node_stats
        if "ResourceGatherNd" in node.timeline_label
    }
    assert readers == set(CPUS)
