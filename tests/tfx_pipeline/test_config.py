"""Configuration: what is read, and how errors name the key."""

from __future__ import annotations

import pathlib
from typing import get_args

import pydantic
import pytest
import yaml

from schemas import settings_file
from schemas.settings_file import ConfigError
from tfx_pipeline import config as config_lib

MINIMAL = {"output_dir": "out", "data": {"raw_dir": "raw"}}


def write(tmp_path, values):
    path = tmp_path / "pipeline.yaml"
    text = values if isinstance(values, str) else yaml.safe_dump(values)
    path.write_text(text, encoding="utf-8")
    return path


def load(tmp_path, values, *overrides):
    return config_lib.load_config(write(tmp_path, values), overrides)


def error(tmp_path, values, *overrides):
    with pytest.raises(ConfigError) as info:
        load(tmp_path, values, *overrides)
    text = str(info.value)
    assert "\n" not in text
    return text


def test_file_overrides_and_defaults_in_that_order(tmp_path):
    values = {**MINIMAL, "trainer": {"epochs": 3, "seed": 4}}
    loaded = load(
        tmp_path,
        values,
        "trainer.epochs=5",
        "model.hidden_units=[4, 2]",
        "model.type=din",
        "trainer.learning_rate=1.0e-3",
        "cache=false",
        "beam={runner: portable, job_endpoint: 'host:8099'}",
    )
    assert (loaded.trainer.epochs, loaded.trainer.seed) == (5, 4)
    assert loaded.model.type == "din"
    assert loaded.model.hidden_units == (4, 2)
    assert loaded.trainer.learning_rate == 1e-3
    assert loaded.cache is False
    assert loaded.beam.job_endpoint == "host:8099"
    assert loaded.trainer.batch_requests == 32


def test_paths_follow_from_the_output_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    loaded = load(tmp_path, {**MINIMAL, "name": "shop"})
    assert loaded.root == tmp_path / "out"
    assert loaded.push_dir == tmp_path / "out" / "serving" / "muse"
    assert loaded.log_path == tmp_path / "out" / "logs" / "shop.log"
    elsewhere = load(
        tmp_path, MINIMAL, "output_dir=~/x", "pusher.directory=served"
    )
    assert elsewhere.root == tmp_path / "home" / "x"
    assert elsewhere.push_dir == tmp_path / "served" / "muse"
    # The retrieval model stands beside the ranker, or where it is told to.
    assert loaded.matching_dir == tmp_path / "out" / "serving" / "matching"
    assert elsewhere.matching_dir == tmp_path / "served" / "matching"
    told = load(tmp_path, MINIMAL, "matching.directory=~/found")
    assert told.matching_dir == tmp_path / "home" / "found"


def test_each_model_type_is_served_from_a_place_of_its_own(tmp_path):
    loaded = {
        name: load(
            tmp_path, MINIMAL, f"model.type={name}", "pusher.directory=s"
        )
        for name in get_args(config_lib.ModelType)
    }
    places = {config.push_dir for config in loaded.values()}
    files = {config.models_file for config in loaded.values()}
    assert len(places) == len(files) == len(loaded) > 1
    assert len({config.matching_dir for config in loaded.values()}) == 1
    assert loaded["muse"].models_file.name == "models.config"


def test_a_configuration_cannot_be_changed(tmp_path):
    with pytest.raises(pydantic.ValidationError):
        load(tmp_path, MINIMAL).model.k = 3


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"trainer": {"epoch": 1}}, ["trainer.epoch", "no such key", "1"]),
        ({"trianer": {}}, ["trianer", "no such key", "mean trainer?"]),
        ({"scl": {"epoch": 1}}, ["scl.epoch", "mean scl.epochs?"]),
        ({"model": {"hidden_units": 64}}, ["expected a list, such as [64]"]),
        ({"trainer": {"epochs": "many"}}, ["trainer.epochs", "'many'"]),
        ({"trainer": {"epochs": 0}}, ["trainer.epochs", "greater", "0"]),
        ({"trainer": {"epochs": 1.5}}, ["trainer.epochs", "1.5"]),
        ({"trainer": [1]}, ["trainer", "trainer.KEY=value", "[1]"]),
        ({"model": {"type": "dnn"}}, ["model.type", "'twin' or 'miss'", "dnn"]),
        ({"model": {"hidden_units": [8, "a"]}}, ["model.hidden_units.1", "a"]),
        ({"model": {"hidden_units": [8, 0]}}, ["model.hidden_units.1", "0"]),
        ({"data": {}}, ["data.raw_dir", "must be given"]),
        ({"data": {"raw_dir": 3}}, ["data.raw_dir", "string", "3"]),
        ({"name": "Bad Name"}, ["name", "pattern", "Bad Name"]),
        ({"model": None}, ["model"]),
        ({"item_embeddings": "none"}, ["item_embeddings", "'learned'", "none"]),
        ({"scl": {"bank_size": -1}}, ["scl.bank_size", "-1"]),
        ({"scl": {"batch_events": 1}}, ["scl.batch_events", "1"]),
        ({"scl": {"eval_fraction": 1.0}}, ["scl.eval_fraction", "1.0"]),
        ({"scl": {"bank": 1}}, ["scl.bank", "no such key"]),
        ({5: 6}, ["5"]),
    ],
)
def test_wrong_values_name_key_and_value(tmp_path, changes, parts):
    text = error(tmp_path, {**MINIMAL, **changes})
    assert text.startswith(str(tmp_path / "pipeline.yaml"))
    for part in parts:
        assert part in text


def test_every_problem_is_told_at_once(tmp_path):
    text = error(
        tmp_path, {**MINIMAL, "modle": 1, "trainer": {"seed": "x", "lr": 1}}
    )
    for key in ("modle", "trainer.seed", "trainer.lr"):
        assert key in text


def test_of_many_problems_the_first_few_are_told():
    file = pathlib.Path(__file__).parents[2] / "configs" / "compare.yaml"
    with pytest.raises(ConfigError) as found:
        config_lib.load_config(file)
    text = str(found.value)
    assert len(text) < 600 and "data: must be given" in text
    assert text.endswith("and 8 more; docs/configuration.md lists all keys")
    assert text.count("lists all keys") == 1


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("epochs", ["section.key=value", "'epochs'"]),
        ("=3", ["section.key=value", "'=3'"]),
        ("trainer.epochs.x=3", ["'epochs'", "not a section"]),
        ("trainer.epochs=three", ["trainer.epochs", "'three'"]),
        ("trainer.epochs=", ["trainer.epochs", "None"]),
        ("trainer.epochs=[1", ["trainer.epochs=[1", "not valid YAML"]),
        ("tr.epochs=3", ["tr", "no such key"]),
        ("trainer.=3", ["trainer."]),
    ],
)
def test_wrong_overrides_name_the_key(tmp_path, override, parts):
    text = error(tmp_path, {**MINIMAL, "trainer": {"epochs": 1}}, override)
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("a: [1\nb: 2", "not valid YAML"),
        ("- 1\n- 2", "expected a mapping"),
        ("just text", "expected a mapping"),
        ("", "output_dir"),
        ("a: !!python/object:os.system {}", "not valid YAML"),
    ],
)
def test_unusable_files_are_named(tmp_path, content, part):
    text = error(tmp_path, content)
    assert str(tmp_path / "pipeline.yaml") in text and part in text


def test_unreadable_files_are_named(tmp_path):
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(ConfigError, match=str(path)):
            config_lib.load_config(path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="binary.yaml"):
        config_lib.load_config(binary)


def test_checked_in_configurations_load():
    folder = pathlib.Path(config_lib.__file__).parents[1] / "configs"
    # Those of `muse compare` have tests of their own.
    paths = set(folder.glob("*.yaml")) - set(folder.glob("compare*.yaml"))
    assert paths
    for path in paths:
        config_lib.load_config(path)


@pytest.mark.parametrize("folder", ["a[b]", "x*", "what?"])
def test_a_path_that_tfx_takes_for_a_pattern_is_refused(
    tmp_path, monkeypatch, folder
):
    text = error(tmp_path, {**MINIMAL, "output_dir": folder})
    assert "output_dir" in text and "choose another folder" in text
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / folder)
    assert "output_dir" in error(tmp_path, MINIMAL)
    # The raw tables are only read, and their path is never a pattern.
    monkeypatch.chdir(tmp_path)
    data = {"raw_dir": str(tmp_path / folder)}
    assert load(tmp_path, {**MINIMAL, "data": data}).data.raw_dir


def test_overrides_leave_what_was_read_as_it_is():
    values = {**MINIMAL, "trainer": {"epochs": 1}}
    parsed = settings_file.parse(
        config_lib.PipelineConfig, values, "x.yaml", "", ["trainer.epochs=2"]
    )
    assert parsed.trainer.epochs == 2
    assert values["trainer"] == {"epochs": 1}
