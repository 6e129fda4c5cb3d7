"""Section ``model``: names, and the ranker that they build."""

from __future__ import annotations

import typing

import numpy as np
import pydantic
import pytest

from muse_keras.models.search_ranker import ESUS, GSUS
from muse_keras.tables import ItemTable
from tests.tfx_pipeline.training import toy_training
from tfx_pipeline import config as config_lib
from tfx_pipeline.training import trainer

TYPES = {
    "muse": "CosineSearch",
    "est": "CosineSearch",
    "din": None,
    "full_din": "NewestSearch",
    "sim_hard": "CategorySearch",
    "sim_soft": "IdCosineSearch",
    "eta": "SimHashSearch",
    "sdim": "NewestSearch",
    "twin": "TargetAttentionSearch",
    "miss": "DualSearch",
}


def choices(name):
    """The names that a setting takes, without null."""
    found = []
    for part in [config_lib.ModelConfig.model_fields[name].annotation]:
        options = typing.get_args(part)
        for option in options:
            found += typing.get_args(option) or (option,)
    return [name for name in found if isinstance(name, str)]


def test_names_are_those_of_the_models():
    assert tuple(choices("gsu")) == GSUS
    assert tuple(choices("esu")) == ESUS
    assert choices("type") == list(TYPES) == list(trainer.MODELS)


@pytest.fixture(scope="module")
def item_table(tmp_path_factory):
    codes = np.ones((6, 4), np.int8)
    codes[0] = 0
    zeros = np.zeros(5, np.int64)
    return ItemTable.write(
        tmp_path_factory.mktemp("models") / "table",
        item_ids=np.arange(1, 6),
        codes=codes[1:],
        features={"category": zeros, "city": zeros, "province": zeros},
        source="test",
    )


def build(item_table, **settings):
    return trainer.build_model(
        config_lib.ModelConfig(k=3, hidden_units=(4,), **settings),
        item_table,
        toy_training.DECLARED,
        dict.fromkeys(toy_training.VOCABULARIES, np.array([7, 8])),
    )


@pytest.mark.parametrize("name", TYPES)
def test_a_type_builds_its_search(name, item_table):
    model = build(item_table, type=name)
    search = None if model.search is None else type(model.search).__name__
    assert search == TYPES[name]


def test_search_and_unit_can_be_chosen(item_table):
    model = build(
        item_table,
        type="din",
        gsu="simhash",
        esu="sdim",
        hash_bits=9,
        hash_rounds=5,
    )
    assert model.search.num_bits == 9
    assert model.search.k == 3
    assert model.exact_search_unit.num_rounds == 5


def test_a_wrong_name_lists_the_choices():
    for setting in ("type", "gsu", "esu"):
        with pytest.raises(pydantic.ValidationError) as error:
            config_lib.ModelConfig(**{setting: "nosuch"})
        for choice in choices(setting):
            assert repr(choice) in str(error.value)
