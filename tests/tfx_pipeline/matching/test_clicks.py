"""Clicks and histories against the requests they were written from."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from tests.tfx_pipeline.matching import world as worlds
from tfx_pipeline.matching import clicks

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return worlds.make_world(folder), str(folder / "examples/Split-train/*")


def test_every_click_once(world):
    made, files = world
    found = clicks.read_clicks(files, 1000, 1000)
    assert collections.Counter(
        zip(found.user_ids.tolist(), found.item_ids.tolist(), strict=True)
    ) == collections.Counter(made.clicked(made.train))


def test_histories_are_the_newest_real_behaviors(world):
    made, files = world
    found = clicks.read_clicks(files, 1000, 4)
    wanted = {
        request.user: [item for item in request.history if item][-4:]
        for request in made.train
        if any(request.clicks)
    }
    assert {u: h.tolist() for u, h in found.histories.items()} == wanted


def test_the_sample_is_the_users_with_the_smallest_hash(world):
    _, files = world
    everyone = clicks.read_clicks(files, 1000, 4).histories
    order = sorted(everyone, key=lambda user: int(clicks.mixed([user])[0]))
    for size in (1, 3, 11):
        sample = clicks.read_clicks(files, size, 4)
        assert set(sample.histories) == set(order[:size])
        assert len(sample.user_ids) > size
    halves = [
        set(clicks.read_clicks(files, 1000, 4, part=part).histories)
        for part in (0, 1)
    ]
    assert halves[0] | halves[1] == set(everyone)
    assert not halves[0] & halves[1] and all(halves)


def test_sampled_pairs_clicks_with_histories(world):
    made, files = world
    found = clicks.read_clicks(files, 5, 1000)
    histories, rows, items = found.sampled()
    assert len(histories) == 5 and (np.diff(rows) >= 0).all()
    users = sorted(found.histories)
    pairs = [(users[r], i) for r, i in zip(rows, items.tolist(), strict=True)]
    wanted = [p for p in made.clicked(made.train) if p[0] in found.histories]
    assert sorted(pairs) == sorted(wanted)
    for user, history in zip(users, histories, strict=True):
        np.testing.assert_array_equal(history, found.histories[user])


def test_no_clicks_at_all(tmp_path):
    request = worlds.Request(1, [2], [3], [0])
    worlds.write_requests(tmp_path / "none", [request])
    found = clicks.read_clicks(str(tmp_path / "none/*"), 5, 5)
    histories, rows, items = found.sampled()
    assert (histories, rows.tolist(), items.tolist()) == ([], [], [])
