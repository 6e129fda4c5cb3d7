"""Keys: what changes a cell, and what does not."""

import pytest

from muse_tools.compare import keys, plan
from tests.muse_tools.compare import worlds


def key(cell, data):
    _, tasks = plan.make_plan("root", [cell], {"toy": data}, 4)
    return tasks[cell].key


def changed(section, **values):
    settings = worlds.prepared().settings
    return worlds.prepared(
        settings={**settings, section: {**settings[section], **values}}
    )


BASE = worlds.cell(), worlds.prepared()


@pytest.mark.parametrize(
    ("cell", "data"),
    [
        (worlds.cell("din"), BASE[1]),
        (worlds.cell(seed=2), BASE[1]),
        (worlds.cell(history=5), BASE[1]),
        (BASE[0], changed("model", k=4)),
        (BASE[0], changed("trainer", batch_requests=8)),
        (BASE[0], changed("trainer", learning_rate=0.5)),
        *(
            (
                BASE[0],
                worlds.prepared(digests={**BASE[1].digests, name: "other"}),
            )
            for name in BASE[1].digests
        ),
    ],
)
def test_what_determines_a_cell_changes_its_key(cell, data):
    assert key(cell, data) != key(*BASE)


@pytest.mark.parametrize(
    "data",
    [
        worlds.prepared(impressions="elsewhere", transform_graph="moved"),
        worlds.prepared(train_files={0: "moved"}, description={}),
        # One epoch whatever the pipeline's; cells do not resume inside.
        changed("trainer", epochs=3, checkpoint_steps=7, seed=99),
    ],
)
def test_what_does_not_determine_it_keeps_the_key(data):
    assert key(BASE[0], data) == key(*BASE)


def test_other_code_is_another_key(monkeypatch):
    before = key(*BASE)
    monkeypatch.setattr(keys, "code_digest", lambda: "other")
    assert key(*BASE) != before


def test_settings_are_the_defaults_but_for_the_method():
    cell = worlds.cell("sim_soft", seed=5)
    _, tasks = plan.make_plan("root", [cell], {"toy": worlds.prepared()}, 4)
    model = tasks[cell].settings["model"]
    assert {name: model[name] for name in worlds.MODEL} == worlds.MODEL
    assert (model["type"], model["gsu"], model["esu"]) == (
        "sim_soft",
        None,
        None,
    )
    trainer = tasks[cell].settings["trainer"]
    assert (trainer["seed"], trainer["epochs"]) == (5, 1)
    assert trainer["batch_requests"] == 4


def test_digest_of_files_is_of_contents_in_order(tmp_path):
    for name, text in (("a", "1"), ("b", "2"), ("c", "1")):
        (tmp_path / name).write_text(text)
    a, b, c = (tmp_path / name for name in "abc")
    assert keys.files_digest([a, b]) == keys.files_digest([c, b])
    assert keys.files_digest([a, b]) != keys.files_digest([b, a])
