"""Stand-ins for searches against loops over purchases."""

import collections
import itertools

import numpy as np
import pyarrow.parquet as pq
import pytest

from muse_tools.datasets import complete_journey_source, purchase_pairs
from muse_tools.datasets.impressions import Purchases


def make_purchases(rows):
    """Rows of household, product, store, week, seconds."""
    rows = sorted(rows, key=lambda r: (r[0], r[4]))
    columns = zip(*rows, strict=True)
    return Purchases(*(np.array(column, np.int64) for column in columns))


def pairs_of(purchases, limit=10**6, seed=0, **changes):
    products = np.arange(1, 13)
    settings = {
        "households": np.unique(purchases.household),
        "products": products,
        "types": np.where(products < 11, products % 4 + 1, 0),
        "categories": products % 2,
        "before_week": 9,
        "limit": limit,
        "clicks": 3,
        "rng": np.random.default_rng(seed),
        **changes,
    }
    return purchase_pairs.make_pairs(purchases, **settings), settings


def random_purchases(seed):
    rng = np.random.default_rng(seed)
    rows = []
    for household in range(1, 8):
        for basket in range(rng.integers(1, 9)):
            week, store = rng.integers(1, 11), rng.integers(1, 3)
            for product in rng.choice(14, rng.integers(1, 5), replace=False):
                rows.append(
                    (household, product + 1, store, week, week * 100 + basket)
                )
    return make_purchases(rows)


def by_basket(purchases, settings):
    """Known products by household and type, basket after basket."""
    types = dict(
        zip(
            settings["products"].tolist(),
            settings["types"].tolist(),
            strict=True,
        )
    )
    baskets: dict = collections.defaultdict(list)
    for h, p, s, w, t in zip(
        purchases.household.tolist(),
        purchases.product.tolist(),
        purchases.store.tolist(),
        purchases.week.tolist(),
        purchases.seconds.tolist(),
        strict=True,
    ):
        if w >= settings["before_week"] or not types.get(p):
            continue
        groups = baskets[h, types[p]]
        if not groups or groups[-1][0] != t:
            groups.append((t, s, w, []))
        groups[-1][3].append(p)
    return baskets


@pytest.mark.parametrize("seed", range(8))
def test_pairs_are_those_of_the_rule(seed):
    purchases = random_purchases(seed)
    pairs, settings = pairs_of(purchases)
    wanted = []
    for groups in by_basket(purchases, settings).values():
        for (_, _, _, before), (t, _, _, now) in itertools.pairwise(groups):
            wanted += [(t, before[-1], p) for p in now if p != before[-1]]
    found = zip(
        pairs.seconds.tolist(),
        pairs.query.tolist(),
        pairs.purchased.tolist(),
        strict=True,
    )
    assert sorted(found) == sorted(wanted)
    assert (np.diff(pairs.seconds) >= 0).all()
    assert pairs.counts["pairs"] == len(wanted)
    assert pairs.counts["clicks_without_purchase"] == len(pairs.clicked)


@pytest.mark.parametrize("seed", range(8))
def test_clicks_were_on_offer_and_never_bought(seed):
    purchases = random_purchases(seed)
    households = np.array([1, 2, 4, 5, 7])
    pairs, settings = pairs_of(purchases, households=households)
    offered: dict = collections.defaultdict(set)
    bought: dict = collections.defaultdict(set)
    place: dict = {}
    for (household, _), groups in by_basket(purchases, settings).items():
        for time, store, week, products in groups:
            bought[household] |= set(products)
            for product in products:
                offered[store, week, product % 2].add(product)
                place[time, product] = place.get((time, product), set()) | {
                    (household, store, week)
                }
    for i, purchased in enumerate(pairs.purchased.tolist()):
        clicked = pairs.clicked[pairs.offsets[i] : pairs.offsets[i + 1]]
        fits = []
        for household, store, week in place[int(pairs.seconds[i]), purchased]:
            if household not in households:
                continue
            possible = offered[store, week, purchased % 2] - bought[household]
            fits.append(
                set(clicked.tolist()) <= possible
                and len(clicked) == min(3, len(possible))
            )
        assert any(fits) and len(set(clicked.tolist())) == len(clicked)


def test_limit_and_seed_choose_some_of_all():
    purchases = random_purchases(1)
    every, _ = pairs_of(purchases)
    total = every.counts["pairs"]
    some, _ = pairs_of(purchases, limit=total - 3)
    again, _ = pairs_of(purchases, limit=total - 3)
    other, _ = pairs_of(purchases, limit=total - 3, seed=1)

    def rows(pairs):
        return list(
            zip(
                pairs.seconds.tolist(),
                pairs.query.tolist(),
                pairs.purchased.tolist(),
                strict=True,
            )
        )

    assert rows(some) == rows(again) != rows(other)
    assert not collections.Counter(rows(some)) - collections.Counter(
        rows(every)
    )
    assert some.counts["pairs_over_limit"] == 3
    assert some.counts["pairs_available"] == total


def test_complete_journey_tables_follow_the_policy(journey):
    out, options = journey
    raw = out / "raw"
    content = {
        row["item_id"]: row["text"]
        for row in pq.read_table(raw / "item_content.parquet").to_pylist()
    }
    names = {
        row["item_id"]: row
        for row in pq.read_table(out / "names.parquet").to_pylist()
    }
    features = set(
        pq.read_table(raw / "item_features.parquet")["product_id"].to_pylist()
    )
    assert set(content) <= features and len(content) > 0.9 * len(features)
    for item, text in list(content.items())[:200]:
        parts = [
            names[item][field]
            for field in ("department", "category", "type", "brand", "size")
        ]
        assert text == ", ".join(part for part in parts if part)
    events = pq.read_table(raw / "search_events.parquet").to_pylist()
    assert len(events) == options.search_events
    assert [e["query_id"] for e in events] == list(range(1, len(events) + 1))
    times = [e["time"] for e in events]
    assert times == sorted(times)
    clicked = 0
    for event in events:
        bought = names[event["purchased_item_id"]]
        assert bought["type"] in event["query_text"]
        assert event["purchased_item_id"] in content
        for item in event["clicked_item_ids"]:
            clicked += 1
            assert names[item]["category"] == bought["category"]
            assert item != event["purchased_item_id"]
        assert len(set(event["clicked_item_ids"])) <= 4
    assert clicked > len(events)
    # Nothing of the ranker's windows is in it.

    purchases = complete_journey_source.load_purchases()
    first = purchases.seconds[purchases.week >= options.train_weeks[0]].min()
    assert max(times) < first + 86_400
