"""Batches of search events against the events and the content."""

from __future__ import annotations

import numpy as np
import pytest

from muse_tools.datasets.errors import DataError
from tests.tfx_pipeline.scl import toy_search
from tfx_pipeline.scl import search_dataset

pytestmark = pytest.mark.tf

QUERY = {"image": 12}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("events")
    content = toy_search.write_content(root / "content")
    pattern, events = toy_search.write_events(root / "events", 23)
    return [pattern], events, content


def batches(world, **changes):
    options = {
        "query_widths": QUERY,
        "item_widths": toy_search.WIDTHS,
        "batch_events": 4,
        "hard_negatives": 2,
        **changes,
    }
    dataset = search_dataset.search_dataset(world[0], world[2], **options)
    return list(dataset.as_numpy_iterator())


def test_events_meet_the_content_of_their_items(world):
    _, events, content = world
    by_query = {tuple(np.float32(e["query_image"])): e for e in events}
    seen = 0
    for batch in batches(world, drop_remainder=False):
        for row, query in enumerate(batch["query"]["image"]):
            event = by_query[tuple(query)]
            seen += 1
            assert [batch["item_ids"][row]] == event["purchased_item_id"]
            bought = content.rows_of(event["purchased_item_id"])
            clicked = event["clicked_item_ids"][:2]
            mask = [True] * len(clicked) + [False] * (2 - len(clicked))
            assert batch["negative_mask"][row].tolist() == mask
            for name, width in toy_search.WIDTHS.items():
                np.testing.assert_array_equal(
                    batch["item"][name][row], content.features(bought)[name][0]
                )
                wanted = np.zeros((2, width), np.float32)
                rows = content.rows_of(clicked)
                wanted[: len(clicked)] = content.features(rows)[name]
                np.testing.assert_array_equal(
                    batch["negatives"][name][row], wanted
                )
    assert seen == len(events)


def test_without_hard_negatives_there_are_none(world):
    batch = batches(world, hard_negatives=0)[0]
    assert set(batch) == {"query", "item", "item_ids"}


def test_batches_reach_over_epochs_and_only_full_ones_are_kept(world):
    kept = batches(world, epochs=2, shuffle=100, seed=3)
    assert [len(batch["item_ids"]) for batch in kept] == [4] * (2 * 23 // 4)
    first = np.concatenate([batch["item_ids"] for batch in kept])[:23]
    wanted = [event["purchased_item_id"][0] for event in world[1]]
    assert sorted(first) == sorted(wanted)


def test_a_resumed_run_sees_what_is_left_in_the_same_order(world):
    options = {"epochs": 2, "shuffle": 100, "seed": 3}
    everything = batches(world, **options)
    rest = batches(world, skip_batches=4, **options)
    assert len(rest) == len(everything) - 4
    for left, wanted in zip(rest, everything[4:], strict=True):
        np.testing.assert_array_equal(
            left["query"]["image"], wanted["query"]["image"]
        )
        np.testing.assert_array_equal(
            left["negatives"]["words"], wanted["negatives"]["words"]
        )


def test_modalities_of_queries_are_read_off_the_events(world, tmp_path):
    assert search_dataset.query_modalities(world[0]) == QUERY
    empty, _ = toy_search.write_events(tmp_path, 0)
    with pytest.raises(DataError, match="NO_SEARCH_EVENTS"):
        search_dataset.query_modalities([empty])


def test_a_shared_tower_takes_all_modalities_of_one_width():
    shared = search_dataset.tower_modalities(
        {"image": 12, "text": 4}, {"image": 12, "words": 6}
    )
    assert shared == {"image": 12, "text": 4, "words": 6}
    with pytest.raises(DataError, match="image: queries are 12 wide") as info:
        search_dataset.tower_modalities({"image": 12}, {"image": 5})
    assert "scl.shared_tower=false" in str(info.value)
