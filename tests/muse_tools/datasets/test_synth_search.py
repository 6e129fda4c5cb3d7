"""Synthetic searches: consistent with the styles, hard for the raw vectors."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from muse_tools.datasets import (
    search_tables,
    search_validation,
    synth,
    synth_search,
    validation,
)
from muse_tools.datasets.synth_items import Catalog


@pytest.fixture(scope="module")
def world():
    catalog = Catalog(4000, 7, 0.05, 0.1)
    views = synth_search.Views(catalog)
    return catalog, views, synth_search.make_events(3000, catalog, views)


def of_event(events):
    return np.repeat(np.arange(len(events.time)), np.diff(events.offsets))


def test_purchases_match_the_wish_and_clicks_nearly(world):
    catalog, views, events = world
    event = of_event(events)
    assert (catalog.style[events.purchased] == events.style).all()
    assert (catalog.style[events.clicked] == events.style[event]).all()
    values = synth_search.attributes(np.arange(catalog.size), catalog)
    assert values.min() == 0 and values.max() == synth_search.VALUES - 1
    lacking = (values[events.purchased] != events.wanted).sum(1)
    near = (values[events.clicked] != events.wanted[event]).sum(1)
    assert (lacking == 0).mean() > 0.8
    assert (near == 0).mean() < 0.15 and 1 < near.mean() < 3
    assert not (events.clicked == events.purchased[event]).any()
    pairs = event * catalog.size + events.clicked
    assert len(np.unique(pairs)) == len(pairs)
    shown = np.r_[events.purchased, events.clicked]
    assert not catalog.is_new[shown].any()
    assert views.have_content(shown).all()
    assert (np.diff(events.time) >= 0).all()


def recall_at_10(queries, items, true):
    scores = queries @ items.T
    better = (scores > scores[np.arange(len(true)), true][:, None]).sum(1)
    return (better < 10).mean()


def unit(vectors):
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norms, 1e-9)


def decoded(train, target, vectors):
    """Least squares from vectors to latents, by which modalities exist."""
    has = [
        np.concatenate([part[m].any(1)[:, None] for m in part], 1)
        for part in (train, vectors)
    ]
    stacked = [np.concatenate(list(p.values()), 1) for p in (train, vectors)]
    found = np.zeros((len(stacked[1]), target.shape[1]))
    for pattern in ((True, False), (False, True), (True, True)):
        rows = [(h == pattern).all(1) for h in has]
        a, b = stacked[0][rows[0]].astype(float), target[rows[0]]
        gram = a.T @ a + 1e-2 * len(a) * np.eye(a.shape[1])
        weights = np.linalg.solve(gram, a.T @ b)
        found[rows[1]] = stacked[1][rows[1]] @ weights
    return found


def test_the_views_hold_more_than_their_raw_cosine_finds(world):
    """What can be learned is there, under nuisance that hides it."""
    catalog, views, events = world
    every = np.arange(catalog.size)
    items = views.of_items(every)
    queries = views.of_queries(
        np.arange(len(events.time)), events.style, events.wanted
    )
    test = np.arange(2400, 3000)
    true = events.purchased[test]

    def raw(vectors):
        return unit(sum(unit(part) for part in vectors.values()))

    some = {m: v[test] for m, v in queries.items()}
    by_raw = recall_at_10(raw(some), raw(items), true)

    def latents(style_vectors, values):
        one_hot = np.eye(synth_search.VALUES)[values].reshape(len(values), -1)
        return np.concatenate(
            [style_vectors, 0.3 * (one_hot - 1 / synth_search.VALUES)], 1
        )

    of_items = latents(
        catalog.latents(every), synth_search.attributes(every, catalog)
    )
    wishes = latents(catalog.style_vectors[events.style], events.wanted)
    train = {m: v[:2400] for m, v in queries.items()}
    by_fit = recall_at_10(
        unit(decoded(train, wishes[:2400], some)),
        unit(decoded(items, of_items, items)),
        true,
    )
    assert 0.1 < by_raw < 0.5
    assert by_fit > by_raw + 0.25
    # Style alone is not enough: attributes decide.
    by_style = recall_at_10(
        catalog.style_vectors[events.style[test]],
        catalog.latents(every),
        true,
    )
    assert by_style < 0.9 * by_fit


def test_queries_and_items_miss_modalities(world):
    catalog, views, events = world
    items = views.of_items(np.arange(catalog.size))
    none = ~views.have_content(np.arange(catalog.size))
    for name, width in synth_search.MODALITIES.items():
        assert items[name].shape == (catalog.size, width)
        missing = ~items[name].any(1)
        assert none[missing].any() and (~none[missing]).any()
        assert 0.04 < missing.mean() < 0.1
    assert 0.01 < none.mean() < 0.03
    queries = views.of_queries(np.arange(3000), events.style, events.wanted)
    image, text = (queries[m].any(1) for m in ("image", "text"))
    assert (image | text).all()
    assert [(image & ~text).mean(), (text & ~image).mean()] == pytest.approx(
        [0.5, 0.3], abs=0.05
    )


def test_views_do_not_depend_on_the_batch(world):
    catalog, views, events = world
    some = np.array([17, 3, 900])
    whole = views.of_items(np.arange(1000))
    for name, part in views.of_items(some).items():
        np.testing.assert_allclose(part, whole[name][some], atol=1e-6)


def test_tables_hold_what_was_drawn(synthetic):
    out, made = synthetic
    content = search_tables.open_table(out, "item_content")
    events = search_tables.open_table(out, "search_events")
    assert content.widths() == events.widths() == synth_search.MODALITIES
    found: dict = {}
    unique = validation.UniqueKeys("item_id", validation.DUPLICATE_ITEM)
    accepted = {}
    for table in (content, events):
        reasons: dict = {}
        rows = 0
        for batch in table.rows.iter_batches(batch_rows=301):
            steps = [
                search_validation.validate(
                    table, synth_search.MODALITIES, batch
                )
            ]
            good = steps[-1].good
            steps.append(
                unique.check(good)
                if table is content
                else validation.require_keys(
                    good,
                    "purchased_item_id",
                    unique.keys(),
                    search_validation.UNKNOWN_PURCHASE,
                )
            )
            rows += steps[-1].good.num_rows
            for step in steps:
                for why, n in step.counts.items():
                    reasons[why] = reasons.get(why, 0) + n
        found[table.name] = reasons
        accepted[table.name] = rows
    assert found == {name: made["broken"][name] for name in found}
    assert all(n == 3 for reasons in found.values() for n in reasons.values())
    assert {r for reasons in found.values() for r in reasons} == set(
        search_validation.REASONS
    )
    assert accepted == {
        "item_content": made["search"]["items_with_content"],
        "search_events": 900,
    }
    features = pq.read_table(out / "raw" / "item_features.parquet")["205"]
    assert set(unique.keys().tolist()) < set(features.to_pylist())


def test_searches_leave_the_other_tables_as_they_are(tmp_path):
    for count in (0, 150):
        synth.generate(
            tmp_path / str(count),
            synth.Options(
                users=40, items=300, history=20, broken=2, search_events=count
            ),
        )
    without, beside = (
        {p.name: p.read_bytes() for p in (tmp_path / n / "raw").iterdir()}
        for n in ("0", "150")
    )
    assert set(beside) - set(without) == {
        f"{name}.parquet" for name in search_tables.TABLES
    }
    assert without == {name: beside[name] for name in without}
