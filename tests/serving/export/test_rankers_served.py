"""Every search is served: the same scores, from GPU kernels alone."""

from pathlib import Path

import keras
import numpy as np
import pytest

from muse_keras import models
from serving.export import (
    UserCacheConfig,
    export_saved_model,
    kernel_report,
)
from tests.serving.export.world import (
    DIM,
    MAX_HISTORY,
    K,
    World,
    feature_options,
    make_requests,
    rank_inputs,
)

tf = pytest.importorskip("tensorflow")

# What SIMSoft looks at, MISS and MUSE do, too.
RANKERS = {
    "sim_hard": (models.SIMHard, {}),
    "twin": (models.TWIN, {}),
    "miss": (models.MISS, {}),
    "full_din": (models.FullDIN, {}),
    # With the identity signal.
    "est": (models.EST, {"depth": 2, "width": 8}),
    "hashes": (models.SearchRanker, {"gsu": "simhash", "esu": "sdim"}),
}


def make_ranker(name: str, world: World) -> keras.Model:
    """Return a ranker with random weights and the world's table."""
    cls, options = RANKERS[name]
    model = cls(
        num_items=world.item_table.num_items,
        **feature_options(world.vocabularies),
        vector_dim=DIM,
        embedding_dim=8,
        recent=3,
        num_tiers=10,
        hidden_units=(8,),
        k=K,
        **options,
    )
    model.table.assign(world.item_table)
    rng = np.random.default_rng(4)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0.0, 0.4, tuple(variable.shape)))
    return model


def model_inputs(world: World, inputs: dict[str, np.ndarray]) -> dict:
    """Look everything up in NumPy, as a request says it."""
    table = world.item_table

    def index(field: str, raw: np.ndarray) -> np.ndarray:
        known = world.vocabularies[field].tolist()
        of = {0: 0} | {value: n for n, value in enumerate(known, 1)}
        return np.vectorize(lambda v: of.get(v, len(known) + 1))(raw).astype(
            "int32"
        )

    ids = inputs["behavior_item_ids"]
    real = ids != 0
    newest = np.cumsum(real[:, ::-1], axis=1)[:, ::-1] <= MAX_HISTORY
    mask = real & newest
    categories = index("item_category", inputs["behavior_category"])
    rows = table.rows(inputs["candidate_item_ids"])
    features = [
        index(f"item_{field}", table.features[field][rows])
        for field in ("category", "city", "province")
    ]
    asked = features[0]
    same = categories[:, None, :] == asked[:, :, None]
    matches = (same & mask[:, None, :]).sum(axis=2) * (asked > 0)
    return {
        "user_features": np.stack(
            [
                index(f"user_{name}", inputs[f"user_{name}"])
                for name in world.features["user"]
            ],
            axis=1,
        ),
        "behavior_rows": table.rows(ids).astype("int32"),
        "behavior_features": categories[..., None],
        "behavior_mask": mask,
        "candidate_rows": rows.astype("int32"),
        "candidate_features": np.stack(features, axis=-1),
        "candidate_matches": matches.astype("float32")[..., None],
        "candidate_mask": inputs["candidate_item_ids"] != 0,
    }


@pytest.mark.parametrize(
    "name",
    [
        # Two searches and both units: the others are exported on one system.
        pytest.param(name, marks=[] if name == "miss" else pytest.mark.once)
        for name in RANKERS
    ],
)
def test_served_as_computed(name: str, world: World, tmp_path: Path) -> None:
    model = make_ranker(name, world)
    # What a cache keeps, and a search gets, is the same for every search.
    cache = UserCacheConfig(users=16, ways=4, max_length=50)
    export = export_saved_model(
        tmp_path / "1",
        model=model,
        item_table=world.item_table,
        learned=world.vocabularies,
        max_history=MAX_HISTORY,
        user_cache=cache if name == "miss" else None,
    )
    ranking = {"rank", "explain", "rank_cached"} & set(
        export.manifest["signatures"]
    )
    for signature in ranking:
        report = kernel_report(export.path, signature)
        assert report.passed, str(report)

    signatures = tf.saved_model.load(str(export.path)).signatures

    def call(signature: str, **given: np.ndarray) -> dict[str, np.ndarray]:
        outputs = signatures[signature](
            **{key: tf.constant(value) for key, value in given.items()}
        )
        return {key: value.numpy() for key, value in outputs.items()}

    requests = make_requests(world.item_table, 8, seed=21)
    inputs = rank_inputs(requests)
    inputs["user_id"] = np.arange(1, 9)
    looked_up = model_inputs(world, inputs)
    parts = {
        key: value.numpy() for key, value in model.explain(looked_up).items()
    }
    real = looked_up["candidate_mask"]
    expected = np.where(real, parts["click_probability"], 0)
    scores = call("rank", **inputs)["click_probability"]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert np.ptp(scores[real]) > 0.01

    explained = call("explain", **inputs)
    found = parts["mask"] & real[:, :, None]
    assert found.any()
    np.testing.assert_allclose(
        explained["click_probability"], expected, atol=1e-5
    )
    for key, rest in (
        ("behavior_indices", -1),
        ("similarities", 0),
        ("attention", 0),
    ):
        np.testing.assert_allclose(
            explained[key], np.where(found, parts[key], rest), atol=1e-5
        )

    if "rank_cached" not in ranking:
        return
    candidates = inputs.pop("candidate_item_ids")
    call("prefetch", **inputs)
    cached = call(
        "rank_cached",
        user_id=inputs["user_id"],
        candidate_item_ids=candidates,
    )
    hit = cached["cache_hit"]
    assert hit.sum() >= 6  # Others may share a full set.
    np.testing.assert_allclose(
        cached["click_probability"][hit], expected[hit], atol=1e-5
    )
