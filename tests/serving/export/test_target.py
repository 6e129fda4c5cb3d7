"""An export for CPUs, with 8-bit matrix products."""

from pathlib import Path

import numpy as np
import pytest

from serving.export import export_saved_model
from serving.export.kernel_report import kernel_report
from tests.serving.export.world import World

tf = pytest.importorskip("tensorflow")

from muse_keras.tensorflow import has_int8_products  # noqa: E402
from serving.model_server.servable import check_processor  # noqa: E402


def export(world: World, path: Path, **arguments: str) -> Path:
    return export_saved_model(
        path,
        model=world.model,
        item_table=world.item_table,
        learned=world.vocabularies,
        max_history=None,
        **arguments,
    ).path


def request(world: World, length: int) -> dict[str, tf.Tensor]:
    """A request with a history long enough to be searched in blocks."""
    rng = np.random.default_rng(length)
    ids = world.item_table.item_ids
    return {
        "user_id": tf.constant([7], tf.int64),
        **{
            f"user_profile_{n}": tf.constant([n], tf.int64) for n in range(1, 6)
        },
        "behavior_item_ids": tf.constant(rng.choice(ids, (1, length))),
        "behavior_category": tf.constant(
            rng.integers(1, 5, (1, length)), tf.int64
        ),
        "candidate_item_ids": tf.constant(rng.choice(ids, (1, 9))),
    }


def test_an_export_for_cpus_gives_the_same_scores(
    world: World, tmp_path: Path
) -> None:
    if not has_int8_products():
        pytest.skip("this processor has no 8-bit dot products")
    portable = export(world, tmp_path / "1")
    for_cpus = export(world, tmp_path / "2", target="cpu")
    assert kernel_report(portable).passed
    ops = {use.op for use in kernel_report(for_cpus).violations}
    assert "QuantizedMatMulWithBias" in ops
    check_processor(str(for_cpus))
    versions = [tf.saved_model.load(str(path)) for path in (portable, for_cpus)]
    for length in (5, 10_000):
        shown = [
            version.signatures["explain"](**request(world, length))
            for version in versions
        ]
        for name, expected in shown[0].items():
            np.testing.assert_array_equal(
                shown[1][name].numpy(), expected.numpy(), err_msg=name
            )


def test_refuses_other_targets(world: World, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'tpu'"):
        export(world, tmp_path / "1", target="tpu")


def test_refuses_what_the_processor_cannot_compute(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "1" / "assets.extra"
    folder.mkdir(parents=True)
    (folder / "muse_export.json").write_text('{"target": "cpu"}')
    monkeypatch.setattr(
        "serving.export.exporter.has_int8_products", lambda: False
    )
    monkeypatch.setattr(
        "serving.model_server.servable.has_int8_products", lambda: False
    )
    with pytest.raises(ValueError, match="8-bit dot products"):
        export(world, tmp_path / "2", target="cpu")
    with pytest.raises(ValueError, match="8-bit dot products"):
        check_processor(str(tmp_path / "1"))
