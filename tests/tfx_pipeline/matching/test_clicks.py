"""Clicks and histories against the requests they were written from."""

from __future__ import annotations

import collections

import apache_beam as beam
import numpy as np
import pytest

from tests.tfx_pipeline.matching import world as worlds
from tfx_pipeline.matching import clicks, inputs

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return worlds.make_world(folder), folder


@pytest.fixture
def read(tmp_path):
    """Writes the clicks of a folder of files with Beam, and reads them."""

    def read(folder, *sample):
        target = str(tmp_path / "clicks")
        with beam.Pipeline() as pipeline:
            inputs.write_clicks(
                pipeline, "Some", f"{folder}/*", inputs.Sample(*sample), target
            )
        return clicks.Clicks.read(target)

    return read


@pytest.fixture
def read_train(world, read):
    return lambda *sample: read(world[1] / "examples/Split-train", *sample)


def test_every_click_once(world, read_train):
    made, _ = world
    found = read_train(1000, 1000)
    wanted = collections.Counter(
        (item, int(clicks.half_of(clicks.mixed([user]))[0]))
        for user, item in made.clicked(made.train)
    )
    items = sorted({item for item, _ in wanted})
    assert found.item_ids.tolist() == items
    assert found.counts.tolist() == [
        [wanted[item, half] for half in (0, 1)] for item in items
    ]
    some = np.array([*items[::2], 2**62 + 1], np.int64)
    some.sort()
    assert found.counts_of(some).tolist() == [
        wanted[item, 0] + wanted[item, 1] for item in some.tolist()
    ]
    assert found.counts_of(some, [1]).tolist() == [
        wanted[item, 1] for item in some.tolist()
    ]


def test_histories_are_the_newest_real_behaviors(world, read_train):
    made, _ = world
    found = read_train(1000, 4)
    wanted = {
        request.user: [item for item in request.history if item][-4:]
        for request in made.train
        if any(request.clicks)
    }
    assert {
        user: of.history.tolist() for user, of in found.users.items()
    } == wanted


def test_the_history_of_the_first_request_with_a_click_counts(tmp_path, read):
    worlds.write_requests(
        tmp_path / "some",
        [
            worlds.Request(1, [9], [3], [0]),
            worlds.Request(1, [7], [4], [1]),
            worlds.Request(1, [8], [5], [1]),
            worlds.Request(1, [6], [5], [1]),
        ],
    )
    user = read(tmp_path / "some", 5, 5).users[1]
    # Requests 0 and 2 are in the first file.
    assert user.history.tolist() == [8]
    assert sorted(user.clicked.tolist()) == [4, 5, 5]


def test_the_sample_is_the_users_with_the_smallest_hash(read_train):
    everyone = read_train(1000, 4)
    order = sorted(
        everyone.users, key=lambda user: int(clicks.mixed([user])[0])
    )
    for size in (1, 3, 11):
        sample = read_train(size, 4)
        assert set(sample.users) == set(order[:size])
        for user, found in sample.users.items():
            np.testing.assert_array_equal(
                np.sort(found.clicked), np.sort(everyone.users[user].clicked)
            )
        np.testing.assert_array_equal(sample.counts, everyone.counts)
    halves = [set(read_train(1000, 4, half).users) for half in (0, 1)]
    assert halves[0] | halves[1] == set(everyone.users)
    assert not halves[0] & halves[1] and all(halves)


def test_a_crowd_of_users_is_cut_while_it_is_read(tmp_path, read):
    worlds.write_requests(
        tmp_path / "crowd",
        [worlds.Request(user, [user], [5], [1]) for user in range(1, 400)],
    )
    sample = read(tmp_path / "crowd", 7, 3)
    order = np.argsort(clicks.mixed(np.arange(1, 400)))[:7] + 1
    assert set(sample.users) == set(order.tolist())
    assert sample.counts.sum() == 399


def test_sampled_pairs_clicks_with_histories(world, read_train):
    made, _ = world
    found = read_train(5, 1000)
    histories, rows, items = found.sampled()
    assert len(histories) == 5 and (np.diff(rows) >= 0).all()
    users = sorted(found.users)
    pairs = [(users[r], i) for r, i in zip(rows, items.tolist(), strict=True)]
    wanted = [p for p in made.clicked(made.train) if p[0] in found.users]
    assert sorted(pairs) == sorted(wanted)
    for user, history in zip(users, histories, strict=True):
        np.testing.assert_array_equal(history, found.users[user].history)


def test_no_clicks_at_all(tmp_path, read):
    worlds.write_requests(tmp_path / "none", [worlds.Request(1, [2], [3], [0])])
    found = read(tmp_path / "none", 5, 5)
    histories, rows, items = found.sampled()
    assert (histories, rows.tolist(), items.tolist()) == ([], [], [])
    assert found.counts_of(np.array([3])).tolist() == [0]
