"""Measures of item vectors, against a search in plain Python."""

import math

import numpy as np
import pytest

from muse_keras.tables import ItemTable
from muse_tools.compare import vectors
from muse_tools.compare.results import VectorsTable
from tests.muse_tools.compare import worlds
from tests.tfx_pipeline.evaluation import metric_oracles
from tests.tfx_pipeline.training import toy_training

pytestmark = pytest.mark.tf

K, TIERS = worlds.MODEL["k"], worlds.MODEL["num_tiers"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Items in pairs of equal vectors; users with several requests."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(4)
    codes = rng.integers(-90, 91, (len(toy_training.ITEMS), 8)).astype(np.int8)
    codes[10:] = codes[:10]
    codes[3] = 0
    ItemTable.write(
        folder / "items",
        toy_training.ITEMS,
        codes,
        {
            name: np.ones(len(codes), np.int64)
            for name in ("category", "city", "province")
        },
        source="test",
    )
    requests = []
    for user in range(24):
        one = toy_training.request(rng, user // 2 + 1)
        # Long enough for more than K, with repetition.
        one["behavior_item_ids"] = rng.choice(
            toy_training.ITEMS, user * 5 % 11
        ).tolist()
        one["behavior_category"] = [1] * (user * 5 % 11)
        requests.append(one)
    (folder / "eval").mkdir()
    with vectors.tf.io.TFRecordWriter(
        str(folder / "eval/part-0.gz"), options="GZIP"
    ) as writer:
        for one in requests:
            writer.write(toy_training.example(one))
    data = worlds.prepared(
        eval_files={0: str(folder / "eval/*")},
        item_tables={"base": str(folder / "items")},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors.tft, "TFTransformOutput", toy_training.Transform)
        yield data, requests, dict(zip(toy_training.ITEMS, codes, strict=True))


def cosine(one, other):
    dot = sum(int(a) * int(b) for a, b in zip(one, other, strict=True))
    norms = [
        math.sqrt(sum(int(a) ** 2 for a in vector)) for vector in (one, other)
    ]
    return dot / (norms[0] * norms[1])


def retrieved(candidate, history, codes):
    """Returns (cosine, item) of the K most alike, older first of equals."""
    if candidate not in codes or not codes[candidate].any():
        return []
    known = [item for item in history if codes[item].any()]
    found = [(cosine(codes[candidate], codes[item]), item) for item in known]
    # Equal codes have bitwise equal cosines here; sorting is stable.
    return sorted(found, key=lambda pair: -pair[0])[:K]


def oracle(requests, codes):
    """Returns shares and untrained scores by impression."""
    tiers, same, equal = [0] * TIERS, 0, 0
    columns = {
        name: [] for name in ("highest", "mean", "top", "same", "category")
    }
    users, clicks = [], []
    for one in requests:
        history = one["behavior_item_ids"]
        for place, candidate in enumerate(one["candidate_item_ids"]):
            found = retrieved(candidate, history, codes)
            numbers = [
                min(int((value + 1) / 2 * TIERS), TIERS - 1)
                for value, _ in found
            ]
            for number in numbers:
                tiers[number] += 1
            same += sum(item == candidate for _, item in found)
            equal += sum(
                item != candidate and (codes[item] == codes[candidate]).all()
                for _, item in found
            )
            # Every repeated item has the highest cosine there is.
            values = [round(value, 6) for value, _ in found]
            columns["highest"].append(max(values, default=-9))
            columns["mean"].append(sum(values) / len(values) if values else -9)
            columns["top"].append(numbers.count(TIERS - 1))
            columns["same"].append(history.count(candidate))
            columns["category"].append(one["candidate_category_matches"][place])
            users.append(one["user_id"][0])
            clicks.append(one["clicks"][place])
    total = sum(tiers)
    gaucs = {
        name: metric_oracles.weighted(
            metric_oracles.per_user(users, clicks, values)
        )
        for name, values in columns.items()
    }
    return (
        [n / total for n in tiers],
        same / total,
        equal / total,
        gaucs,
        clicks,
    )


def test_measures(world):
    data, requests, codes = world
    found = vectors.measure(data, ["base"], 50)
    tiers, same, equal, gaucs, clicks = oracle(requests, codes)
    (row,) = found.rows
    np.testing.assert_allclose(row.tiers, tiers, atol=1e-6)
    assert row.same_item == pytest.approx(same, abs=1e-6)
    assert row.equal_vector == pytest.approx(equal, abs=1e-6)
    assert min(same, equal) > 0
    for name, wanted in (
        ("highest cosine", "highest"),
        ("mean cosine", "mean"),
        ("top tier", "top"),
    ):
        one = row.scores[name]
        assert one.value == pytest.approx(gaucs[wanted], abs=1e-6), name
        assert one.lower < one.value < one.upper
    for name in ("same item", "same category"):
        assert found.scores[name].value == pytest.approx(
            gaucs[name.split()[1] if "category" in name else "same"], abs=1e-6
        )
    assert (found.requests, found.all_requests) == (24, 24)
    assert found.impressions == len(clicks)
    repeated = [
        item in one["behavior_item_ids"]
        for one in requests
        for item in one["candidate_item_ids"]
    ]
    for click, share in (
        (1, found.clicks_repeated),
        (0, found.others_repeated),
    ):
        chosen = [
            r for r, c in zip(repeated, clicks, strict=True) if c == click
        ]
        assert share == pytest.approx(np.mean(chosen), abs=1e-6)


def test_random_pairs_are_of_different_items_with_vectors(world):
    data, _, codes = world
    table = ItemTable.open(data.item_tables["base"])
    real = [vector for vector in codes.values() if vector.any()]
    cosines = [
        cosine(one, other)
        for i, one in enumerate(real)
        for j, other in enumerate(real)
        if i != j
    ]
    found = vectors._random_pairs(table)
    wanted = np.percentile(cosines, vectors.PERCENTILES)
    # 100,000 draws of 342 pairs.
    np.testing.assert_allclose(found, wanted, atol=0.03)


def test_a_sample_is_some_of_the_requests(world):
    data, requests, _ = world
    found = vectors.measure(data, ["base"], 5, limit=9)
    drawn = np.random.default_rng(vectors.SEED).choice(24, 9, replace=False)
    assert (found.requests, found.all_requests) == (9, 24)
    assert found.impressions == sum(
        len(requests[place]["candidate_item_ids"]) for place in drawn
    )


def test_measured_once_for_the_same_contents(tmp_path, world, monkeypatch):
    data, _, _ = world
    data = worlds.prepared(
        eval_files=data.eval_files,
        digests={**data.digests, "items/random": "e"},
    )
    calls = []

    def measure(data, names, samples):
        calls.append(names)
        return VectorsTable(
            requests=len(calls),
            all_requests=9,
            impressions=0,
            seed=1,
            k=3,
            tier_edges=[-1.0, 1.0],
            percentiles=[50],
            clicks_repeated=None,
            others_repeated=None,
            scores={},
            rows=[],
        )

    monkeypatch.setattr(vectors, "measure", measure)
    out = str(tmp_path / "out")
    config = worlds.config(output_dir=out)
    more = worlds.config(output_dir=out, embeddings=("random",))
    lines = []
    found = [
        vectors.vectors_table(one, "toy", data, lines.append).requests
        for one in (config, config, more, config)
    ]
    assert found == [1, 1, 2, 1]
    assert calls == [("base",), ("base", "random")]
    assert len(lines) == 2
    # Other test requests.
    other = worlds.prepared(digests={**data.digests, "eval": "z"})
    assert vectors.vectors_table(config, "toy", other, str).requests == 3
