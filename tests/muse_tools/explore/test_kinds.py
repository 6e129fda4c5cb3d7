"""Features of every kind, their names and values, in the explorer."""

from __future__ import annotations

import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from schemas.hashing import stable_id
from tests.serving.export import kinds as toy

USER = 77
# Raw values as in files; a missing one has no words.
FEATURES = {
    "town": (-6, "-6"),
    "club": ("Chess Club", "Chess Club"),
    "tastes": ([5, 8], "5, 8"),
    "age": (31.25, "31.25"),
    "income": (None, None),
    "profile": ([0.5, 1.0, 2.0], "3 numbers"),
}

_OF_KIND = {
    "vocabulary": np.array([7, -6, 5, 8]),
    "buckets": np.array([-0.5, 0.25, 1.0], np.float32),
    "number": np.array([0.4, 1.5], np.float32),
}
LEARNED = {
    name: _OF_KIND[one.kind][: one.buckets - 1 if one.buckets else None]
    for name, one in toy.FEATURES.learned().items()
    if one.kind in _OF_KIND
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    from muse_tools import explore
    from serving.export import export_saved_model

    folder = tmp_path_factory.mktemp("kinds")
    table = toy.make_table(folder / "table")
    model = toy.make_model(table, LEARNED)
    export = export_saved_model(
        folder / "muse" / "1",
        model=model,
        item_table=table,
        features=toy.FEATURES,
        learned=LEARNED,
        schema=toy.DECLARED,
        max_history=toy.MAX_HISTORY,
    )
    loaded = tf.saved_model.load(str(export.path))
    made = toy.Kinds(table, LEARNED, model, export, loaded)
    ids = made.item_table.item_ids
    history = ids[[3, 4, 3, 9, 12]]
    data = folder / "data"
    data.mkdir()
    (data / "schema.yaml").write_text(toy.DECLARED.yaml())

    def write(name, **columns):
        pq.write_table(pa.table(columns), data / f"{name}.parquet")

    write(
        "test_user_features",
        user_id=[USER],
        **{name: [raw] for name, (raw, _) in FEATURES.items()},
        behavior_item_ids=[history],
        brand_then=[[7, -6, 7, 5, 0]],
        action=[["look", "buy", "", "look", "buy"]],
        dwell=[[0.5, -2.0, float("nan"), 9.0, 0.0]],
    )
    shown = ids[[2, 5, 6]]
    write(
        "test_samples",
        user_id=[USER] * 3,
        item_id=shown,
        click=[1, 0, 0],
        buy=[1, 0, 0],
        device=["phone"] * 3,
        slots=[1] * 3,
        heat=[0.5] * 3,
        themes=[[5]] * 3,
        badges=[[5]] * 3,
        discount=[0.5] * 3,
        stock=[0.5] * 3,
        position=[1, 2, 3],
    )
    features = {n: v[1:] for n, v in made.item_table.features.items()}
    write(
        "item_features",
        item_id=ids,
        **{n: pa.array(v.tolist()) for n, v in features.items()},
    )
    explained = explore.ExplainedModel(folder / "muse")
    return types.SimpleNamespace(
        made=made,
        model=explained,
        explorer=explore.Explorer(explained, explore.ExplorerData(data)),
        history=history,
        shown=shown,
    )


def test_histories_are_embedded_as_in_the_model(world):
    made, features = world.made, toy.FEATURES
    carried = ("action", "brand", "dwell")
    seen = 0
    for request in toy.make_requests(made.item_table, 6, seed=8):
        inputs = toy.model_inputs(made, request)
        kept = len(inputs["behavior_rows"])
        seen += kept
        if not kept:
            continue
        columns = inputs["behavior_features"][None]
        widths = [features.of_behavior(n).width for n in _ORDER]
        parts = np.split(columns, np.cumsum(widths)[:-1], axis=2)
        of = {
            name: part if features.of_behavior(name).many else part[..., 0]
            for name, part in zip(_ORDER, parts, strict=True)
        }
        expected = made.model._embed_behaviors(
            False, inputs["behavior_rows"][None].astype("int32"), of
        )
        found = world.model.behaviors(
            request["behavior_item_ids"],
            {name: request[f"behavior_{name}"] for name in carried},
        )
        np.testing.assert_allclose(
            found.embeddings[-kept:], np.asarray(expected)[0], atol=1e-6
        )
        np.testing.assert_array_equal(
            found.categories[-kept:], of[features.matches[0]][0]
        )
    assert seen > 5


# Of item features first, as the model has them.
_ORDER = ("tags", "brand", "grade", "action", "dwell")


def test_a_user_has_the_features_of_the_declaration(world):
    found = world.explorer.user(USER)
    assert found["features"] == {
        name: words for name, (_, words) in FEATURES.items() if words
    }
    about = world.explorer.about()
    assert about["data_set"] == "kinds"
    assert about["labels"] == ["click", "buy"]
    assert about["category"] == toy.FEATURES.matches[0]


def test_scores_are_those_of_rank_without_context(world):
    made = world.made
    raw = {name: value for name, (value, _) in FEATURES.items()}
    one = {
        "user_id": [USER],
        "user_town": [raw["town"]],
        "user_club": [stable_id("user_club", raw["club"])],
        "user_tastes": [[*raw["tastes"], 0]],
        "user_age": np.array([raw["age"]], np.float32),
        "user_income": np.array([np.nan], np.float32),
        "user_profile": np.array([raw["profile"]], np.float32),
        "behavior_item_ids": [world.history],
        "behavior_brand": [[7, -6, 7, 5, 0]],
        "behavior_action": [
            [
                stable_id("behavior_action", text) if text else 0
                for text in ("look", "buy", "", "look", "buy")
            ]
        ],
        "behavior_dwell": np.array([[0.5, -2, np.nan, 9, 0]], np.float32),
        "candidate_item_ids": [world.shown],
        "context_device": [0],
        "context_heat": np.array([np.nan], np.float32),
        "context_themes": [[0, 0]],
        "candidate_discount": np.full((1, 3), np.nan, np.float32),
        "candidate_stock": np.full((1, 3), np.nan, np.float32),
    }
    answer = made.call(
        "rank",
        **{
            name: values
            if isinstance(values, np.ndarray)
            else np.array(values, np.int64)
            for name, values in one.items()
        },
    )
    expected = dict(
        zip(
            map(str, world.shown.tolist()),
            answer["click_probability"][0],
            strict=True,
        )
    )
    found = world.explorer.user(USER)["impressions"]
    assert {row["item_id"]: row["click_probability"] for row in found} == (
        pytest.approx(expected, abs=1e-6)
    )
    for place, item in enumerate(world.shown.tolist()):
        explained = world.explorer.explain(USER, item)["candidate"]
        assert explained["probabilities"] == {
            "buy": pytest.approx(answer["buy_probability"][0, place], abs=1e-5)
        }


def test_items_and_behaviors_have_their_features(world):
    item = int(world.shown[0])
    found = world.explorer.explain(USER, item)
    row = world.made.item_table.rows([item])[0]
    of = {n: v[row] for n, v in world.made.item_table.features.items()}
    expected = {
        "brand": str(of["brand"]) if of["brand"] else None,
        "tags": ", ".join(str(tag) for tag in of["tags"] if tag) or None,
        "price": None if np.isnan(of["price"]) else f"{of['price']:.4g}",
        "grade": None if np.isnan(of["grade"]) else f"{of['grade']:.4g}",
    }
    assert found["candidate"]["features"] == {
        name: words for name, words in expected.items() if words
    }
    own = {row["position"]: row["own"] for row in found["lists"]["sim_soft"]}
    first = {"brand": "7", "action": "look", "dwell": "0.5"}
    wanted = [
        first,
        {"brand": "-6", "action": "buy", "dwell": "-2"},
        {"brand": "7"},
        {"brand": "5", "action": "look", "dwell": "9"},
        {"action": "buy", "dwell": "0"},
    ]
    assert own and all(own[place] == wanted[place] for place in own)
