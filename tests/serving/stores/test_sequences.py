"""Both stores against a model of them: plain lists, for any layout."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.stores import Layout, UserRecord, open_store

LAYOUTS = [
    Layout(),
    Layout((), ("category", "action", "dwell")),
    Layout(("age", "city"), ("category",)),
]


def numbers(first, count, factor):
    """Any int64, none of them 0."""
    odd = np.arange(first, first + count, dtype=np.int64) * 2 + 1
    return (odd * np.int64(factor)).tolist()


class Plain:
    """What a store must say of a user, kept in lists."""

    def __init__(self, layout):
        self.layout = layout
        self.user, self.events, self.rows = None, [], None

    def set(self, given):
        self.user = {name: given.get(name, 0) for name in self.layout.user}

    def add(self, items, behaviors):
        zeros = [0] * len(items)
        columns = [behaviors.get(n, zeros) for n in self.layout.behaviors]
        self.events = [*self.events, *zip(items, *columns, strict=True)][-1000:]
        self.rows = None if items else self.rows

    def check(self, found, most):
        kept = self.events[max(0, len(self.events) - most) :]
        columns = [found.item_ids, *found.behaviors.values()]
        assert list(found.behaviors) == list(self.layout.behaviors)
        assert [c.tolist() for c in columns] == [
            [event[place] for event in kept]
            for place in range(1 + len(self.layout.behaviors))
        ]
        assert found.user == self.user
        if self.rows is None:
            assert found.rows is None
        else:
            rows = self.rows[len(self.rows) - len(kept) :]
            assert found.rows.tolist() == rows and found.table_stamp == 17


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["append", "replace"]), st.integers(0, 1500)),
        st.tuples(st.just("trim"), st.integers(0, 1200)),
        st.tuples(st.just("read"), st.integers(0, 1100)),
        st.tuples(st.sampled_from(["rows", "user", "open"]), st.just(0)),
    ),
    max_size=12,
)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["none", "three", "both"])
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=STEPS, data=st.data())
def test_any_sequence_is_that_of_a_list(layout, store_url, steps, data):
    """Blocks, cuts and numbers never show: a store is a list per user."""

    def features(names):
        if not names:
            return []
        return data.draw(st.lists(st.sampled_from(names), unique=True))

    store = open_store(store_url, layout, limit=1000, timeout=20)
    try:
        # Two neighbors must stay as they are.
        for neighbor in (-1, 1):
            store.replace_many([UserRecord(neighbor, None, [neighbor])])
        store.replace_many([UserRecord(0)])
        plain, counter = Plain(layout), 0
        ends = {store.read(0).end}
        for kind, number in steps:
            items = numbers(counter, number, 0x9E3779B97F4A7C1)
            behaviors = {
                name: numbers(counter, number, 2**40 + 2 * place + 1)
                for place, name in enumerate(features(layout.behaviors))
            }
            given = None
            if kind == "user" or data.draw(st.booleans()):
                given = {name: counter - 7 for name in features(layout.user)}
            if kind in ("append", "replace", "user"):
                if kind == "replace":
                    record = UserRecord(0, given, items, behaviors)
                    store.replace_many([record])
                    plain = Plain(layout)
                elif kind == "append":
                    store.append(0, items, behaviors, given)
                else:
                    store.set_user(0, given)
                plain.add(items, behaviors)
                if given is not None:
                    plain.set(given)
                counter += number
            elif kind == "trim":
                store.trim(0, number)
                plain.events = plain.events[
                    max(0, len(plain.events) - number) :
                ]
            elif kind == "rows":
                plain.rows = list(range(len(plain.events)))
                assert store.set_rows(0, plain.rows, 17, end=store.read(0).end)
            elif kind == "open":
                store.close()
                store = open_store(store_url, limit=1000, timeout=20)
                assert store.layout == layout and not store.is_new
            most = number if kind == "read" else 1000
            found = store.read(0, most)
            plain.check(found, most)
            if kind == "append" and number:
                assert found.end not in ends
                ends.add(found.end)
        for neighbor in (-1, 1):
            assert store.read(neighbor).item_ids.tolist() == [neighbor]
        assert sorted(store.user_ids()) == [-1, 0, 1]
        assert store.stats().events >= 2 + len(plain.events)
    finally:
        store.close()
