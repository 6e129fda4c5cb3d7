"""A whole comparison of toy models, from cells to files."""

import json
import pathlib

import numpy as np
import pytest

from muse_tools.compare import cell as cell_lib
from muse_tools.compare import data as data_lib
from muse_tools.compare import plan, run
from muse_tools.compare.grid import expand
from muse_tools.compare.impressions import Impressions
from muse_tools.compare.results import Results
from tests.muse_tools.compare import worlds
from tests.tfx_pipeline.training import toy_training

pytestmark = pytest.mark.tf

SCHEMA = pathlib.Path(__file__).parents[3] / "docs/results/compare.schema.json"
CONFIG = worlds.config(seeds=(1,), ablation_seeds=(1,), methods=("din", "muse"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    train, _ = toy_training.write_requests(folder / "train", 12)
    test, _ = toy_training.write_requests(folder / "eval", 12, seed=5)
    toy_training.write_items(folder / "items")
    data_lib.read_impressions([train], [test], toy_training.SPEC).save(
        folder / "impressions.npz"
    )
    made = worlds.prepared(
        train_files={0: train},
        eval_files={0: test},
        item_tables={"base": str(folder / "items")},
        impressions=str(folder / "impressions.npz"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cell_lib.tft, "TFTransformOutput", toy_training.Transform)
        patch.setattr(
            cell_lib.learned_values,
            "read_learned",
            lambda output, features: toy_training.VOCABULARIES,
        )
        patch.setattr(data_lib, "prepare", lambda *unused: made)
        yield made


@pytest.fixture(scope="module")
def finished(tmp_path_factory, prepared):
    """A comparison that has run: its configuration and its results."""
    out = tmp_path_factory.mktemp("finished") / "out"
    config = CONFIG.model_copy(update={"output_dir": str(out)})
    return config, run.compare(config, str, workers=0)


def test_comparison(finished, prepared, monkeypatch):
    config, results = finished
    out = config.root
    (found,) = results.data_sets.values()
    assert [one.status for one in found.cells] == ["done"] * 2
    overall = found.tables[0]
    assert [row.name for row in overall.rows] == ["DIN", "MUSE"]
    for row in overall.rows:
        assert 0 <= row.gauc.lower <= row.gauc.value <= row.gauc.upper <= 1
        assert row.parameters > row.parameters_without_tables > 0
    assert [row.embeddings for row in found.vectors.rows] == ["base"]
    # What is stored is the schema's, word for word.
    stored = (out / "results.json").read_text()
    assert Results.model_validate_json(stored) == results
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(json.loads(stored), json.loads(SCHEMA.read_text()))
    text = (out / "results.md").read_text()
    assert (
        f"| MUSE (scl_cosine + sa_ta_simtier) | {results_gauc(found)}" in text
    )
    assert "What the item vectors tell apart" in text
    # Its scores are those of its clicks.
    cells = {one.name: one for one in found.cells}
    folder = out / "cells" / cells["MUSE, seed 1"].key
    with np.load(folder / "scores.npz") as kept:
        scores = kept["scores"]
    shown = Impressions.load(pathlib.Path(prepared.impressions))
    assert scores.shape == shown.clicks.shape
    assert ((scores > 0) & (scores < 1)).all()
    assert sorted(path.name for path in folder.iterdir()) == [
        "metrics.json",
        "scores.npz",
        "settings.json",
        "training.jsonl",
    ]
    # Again: nothing is trained, and the numbers are the same.
    monkeypatch.setattr(cell_lib, "run_cell", None)
    lines = []
    assert run.compare(config, lines.append, workers=0) == results
    assert lines[-2] == "2 cells, 2 finished before, 0 to train"


def results_gauc(found):
    return f"{found.tables[0].rows[1].gauc.value:.4f}"


def test_the_same_seed_gives_the_same_scores(tmp_path, finished, prepared):
    """A killed cell leaves nothing, and is redone as if it were new."""
    config, _ = finished
    made, tasks = plan.make_plan(
        tmp_path, expand(config)[:1], {"toy": prepared}, config.score_batch
    )
    (task,) = tasks.values()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cell_lib, "_train", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            cell_lib.run_cell(made, task)
    assert not made.done(task)
    assert list((tmp_path / "cells").iterdir()) == []
    cell_lib.run_cell(made, task)
    scores = []
    for root in (config.root, tmp_path):
        with np.load(root / "cells" / task.key / "scores.npz") as kept:
            scores.append(kept["scores"])
    np.testing.assert_array_equal(*scores)


def _interrupted(*unused):
    raise KeyboardInterrupt


def test_scores_that_do_not_fit_the_impressions_fail(
    tmp_path, prepared, monkeypatch
):
    shown = Impressions.load(pathlib.Path(prepared.impressions))
    scores = np.zeros(len(shown.clicks) - 1, np.float32)
    monkeypatch.setattr(cell_lib, "_train", lambda *unused: (scores, {}))
    made, tasks = plan.make_plan(
        tmp_path / "out", expand(CONFIG)[:1], {"toy": prepared}, 5
    )
    (task,) = tasks.values()
    with pytest.raises(RuntimeError, match="prepared data has changed"):
        cell_lib.run_cell(made, task)
    assert not made.done(task)


def test_the_published_schema_is_that_of_the_code():
    wanted = Results.model_json_schema()
    assert json.loads(SCHEMA.read_text()) == wanted


def test_published_results_are_of_the_schema():
    for path in SCHEMA.parent.glob("compare*.json"):
        if path != SCHEMA:
            Results.model_validate_json(path.read_text())


def test_data_on_which_no_user_has_an_auc_still_gives_results(tmp_path):
    """Every number that cannot be is None in the file, not NaN."""
    shown = worlds.impressions(users=3)
    shown = shown._replace(clicks=np.ones_like(shown.clicks))
    shown.save(tmp_path / "impressions.npz")
    data = worlds.prepared(impressions=str(tmp_path / "impressions.npz"))
    made, tasks = plan.make_plan(
        tmp_path / "out", expand(CONFIG), {"toy": data}, 5
    )
    for task in made.tasks:
        cell = worlds.stored(shown, 1.0, 1)
        worlds.write_cell(
            made,
            task,
            worlds.StoredCell(
                cell.scores, {**cell.metrics, "gauc": float("nan")}
            ),
        )
    results = run.collect(CONFIG, made, tasks)
    run.write_results(results, tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    (row, *_) = found["data_sets"]["toy"]["tables"][0]["rows"]
    assert row["gauc"]["value"] is None
    (claim,) = (
        one
        for one in results.data_sets["toy"].claims
        if one.id == "muse_above_din"
    )
    assert (claim.status, claim.reason) == (
        "not confirmed",
        "MUSE minus DIN: no user has an AUC",
    )
