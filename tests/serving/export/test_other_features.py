"""Exports of models with other features than the preset's, or with none."""

from pathlib import Path

import numpy as np
import pytest

from schemas.columns import Feature, Features
from serving.client import CachedRankRequest, MuseClient, PrefetchRequest
from serving.export import kernel_report
from serving.export.feature_names import single_categories
from tests.serving.export.test_signatures import oracle_scores
from tests.serving.export.world import (
    DIM,
    World,
    make_requests,
    make_world,
    rank_inputs,
    rank_request,
    to_example,
)

pytest.importorskip("tensorflow")

LAYOUTS: dict[str, dict[str, tuple[str, ...]]] = {
    "others": {
        "user": ("age", "home_town"),
        "item": ("shop", "brand", "category"),
        "behavior": ("brand", "shop"),
        "matches": ("shop", "brand"),
    },
    "none": {"user": (), "item": ("brand",), "behavior": (), "matches": ()},
}
NEW = 4_000_000_001


@pytest.fixture(scope="module", params=list(LAYOUTS))
def other(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> World:
    folder: Path = tmp_path_factory.mktemp(request.param)
    return make_world(folder, LAYOUTS[request.param])


def test_every_path_gives_the_scores_of_the_model(other: World) -> None:
    from serving.model_server import ServerConfig, running

    requests = make_requests(other.item_table, 10, 8, other.features)
    typed = [rank_request(request) for request in requests]
    expected = [oracle_scores(other, request) for request in requests]
    assert np.std(np.concatenate(expected)) > 0.05
    config = ServerConfig(
        model_base_path=str(other.export.path.parent), port=0, rest_api_port=0
    )
    with running(config) as app, MuseClient(app.grpc_target) as client:
        paths = {
            "rank": client.rank(typed),
            "explain": client.explain(typed),
            "serving_default": client.predict_examples(
                [to_example(request) for request in requests]
            ),
        }
        with MuseClient(app.rest_url, "rest") as rest:
            paths["REST"] = rest.rank(typed)
        for by_rows in (False, True):
            cached = paths[f"cached, by rows: {by_rows}"] = []
            for request in typed:
                history = {"behavior_item_ids": request.behavior_item_ids}
                if by_rows and len(request.behavior_item_ids):
                    found = client.resolve_items(request.behavior_item_ids)
                    history = {
                        "behavior_rows": found.rows,
                        "table_stamp": found.table_stamp,
                    }
                client.prefetch(
                    PrefetchRequest(
                        request.user_id,
                        user=request.user,
                        behaviors=request.behaviors,
                        **history,
                    )
                )
                cached.append(
                    client.rank_cached(
                        CachedRankRequest(
                            request.user_id, request.candidate_item_ids
                        )
                    )
                )
                assert cached[-1].cache_hit
    for path, answers in paths.items():
        for row, wanted in enumerate(expected):
            np.testing.assert_allclose(
                answers[row].click_probability,
                wanted,
                atol=1e-5,
                err_msg=f"{path}, row {row}",
            )


def test_a_fresh_item_scores_as_one_of_the_table(other: World) -> None:
    """One with the vector and features of an item, and an id of its own."""
    table = other.item_table
    row = 31
    (request,) = make_requests(table, 1, 9, other.features)
    request["behavior_item_ids"] = table.item_ids[40:44]
    for name in other.features["behavior"]:
        request[f"behavior_{name}"] = table.features[name][41:45]
    request["candidate_item_ids"] = table.item_ids[row - 1 : row]
    # The new id has the trained embedding of unknown items.
    embeddings = other.model.item_embedding.embeddings
    before = embeddings.numpy()
    changed = before.copy()
    changed[row] = before[0]
    embeddings.assign(changed)
    expected = oracle_scores(other, request)
    embeddings.assign(before)
    features = {
        f"item_{name}": values[row : row + 1]
        for name, values in table.features.items()
    }
    answer = other.call(
        "upsert_items",
        item_ids=np.array([NEW]),
        embedding=(table.codes[row : row + 1] / np.float32(127)).reshape(
            1, DIM
        ),
        **features,
    )
    assert answer["stored"].all()
    request["candidate_item_ids"] = np.array([NEW])
    scores = other.call("rank", **rank_inputs([request]))["click_probability"]
    np.testing.assert_allclose(scores[0], expected, atol=2e-6)


def test_runs_on_a_gpu(other: World) -> None:
    for signature in ("rank", "rank_cached", "prefetch", "explain"):
        report = kernel_report(other.export.path, signature)
        assert report.passed, str(report)


def test_the_manifest_has_the_declared_names(other: World) -> None:
    manifest = other.export.manifest
    assert manifest["features"] == {
        "context": [],
        "candidate": [],
        **{group: list(names) for group, names in other.features.items()},
    }
    assert manifest["index_sizes"] == {
        name: len(ids) + 2 for name, ids in other.vocabularies.items()
    }


def test_features_that_items_have_are_looked_up(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A model without the input scores as one that gets the items' values."""
    import tensorflow as tf

    from serving.export import UserCacheConfig, export_saved_model

    folder = tmp_path_factory.mktemp("looked_up")
    world = make_world(folder, LAYOUTS["others"])
    table = world.item_table
    parts = {
        "model": world.model,
        "item_table": table,
        "learned": world.vocabularies,
        "max_history": 6,
        "user_cache": UserCacheConfig(users=64, ways=4, max_length=100),
    }
    features = single_categories(**world.features)
    features = Features(
        **{
            **dict(features),
            "behavior": {**features.behavior, "brand": Feature()},
        }
    )
    export = export_saved_model(
        folder / "short" / "1", features=features, **parts
    )
    short = tf.saved_model.load(str(export.path)).signatures
    requests = make_requests(table, 10, 11, world.features)
    for request in requests:
        rows = table.rows(request["behavior_item_ids"])
        request["behavior_brand"] = table.features["brand"][rows]
    inputs = rank_inputs(requests)
    expected = world.call("rank", **inputs)["click_probability"]
    assert np.std(expected) > 0.05
    given = {
        name: tf.constant(values)
        for name, values in inputs.items()
        if name != "behavior_brand"
    }
    found = short["rank"](**given)["click_probability"].numpy()
    np.testing.assert_array_equal(found, expected)
    candidates = given.pop("candidate_item_ids")
    rows = table.rows(inputs["behavior_item_ids"]).astype(np.int32)
    rows[inputs["behavior_item_ids"] == 0] = -1
    stamp = short["resolve_items"](item_ids=tf.constant([1], tf.int64))
    by_rows = {
        **given,
        "behavior_rows": tf.constant(rows),
        "table_stamp": tf.repeat(stamp["table_stamp"], len(rows)),
    }
    del by_rows["behavior_item_ids"]
    for name, history in (("prefetch", given), ("prefetch_rows", by_rows)):
        short[name](**history)
        cached = short["rank_cached"](
            user_id=given["user_id"], candidate_item_ids=candidates
        )
        assert cached["cache_hit"].numpy().all()
        np.testing.assert_allclose(
            cached["click_probability"].numpy(), expected, atol=1e-6
        )
