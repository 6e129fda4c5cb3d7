"""Both stores against a model of them: plain lists, for any layout."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.stores import Kind, Layout, UserRecord, open_store

LAYOUTS = {
    "none": Layout(),
    "three": Layout((), ("category", "action", "dwell")),
    "both": Layout(("age", "city"), ("category",)),
    "floats": Layout(
        {"height": Kind("float32"), "age": Kind(), "tags": Kind("int64", 3)},
        {"price": Kind("float32"), "action": Kind()},
        times=True,
    ),
    "wide": Layout(
        {"taste": Kind("float32", 2)},
        {"a": Kind("int64", 2), "b": Kind("float32", 3), "c": Kind()},
    ),
}


def numbers(first, count, factor):
    """Any int64, none of them 0."""
    odd = np.arange(first, first + count, dtype=np.int64) * 2 + 1
    return (odd * np.int64(factor)).tolist()


def values(kind, first, count, factor):
    """Any values of a kind, a list for each of several events if wide."""
    flat = numbers(first, count * kind.width, factor)
    if kind.dtype == "float32":
        flat = np.array(flat, np.float32).tolist()
    if kind.width == 1:
        return flat
    return np.reshape(np.array(flat), (count, kind.width)).tolist()


def missing(kind):
    """What is said of a value that was left out."""
    one = 0 if kind.dtype == "int64" else float("nan")
    return one if kind.width == 1 else [one] * kind.width


def same(found, expected):
    """Whether lists are equal, NaN like NaN, and of one type."""
    return repr(found) == repr(expected)


class Plain:
    """What a store must say of a user, kept in lists."""

    def __init__(self, layout):
        self.layout = layout
        self.user, self.events, self.rows = None, [], None

    def set(self, given):
        self.user = {
            name: given.get(name, missing(kind))
            for name, kind in self.layout.user.items()
        }

    def add(self, items, behaviors, times):
        columns = [
            behaviors.get(name, [missing(kind)] * len(items))
            for name, kind in self.layout.behaviors.items()
        ]
        columns += [times] if self.layout.times else []
        self.events = [*self.events, *zip(items, *columns, strict=True)][-1000:]
        self.rows = None if items else self.rows

    def check(self, found, most):
        kept = self.events[max(0, len(self.events) - most) :]
        columns = [found.item_ids, *found.behaviors.values()]
        columns += [found.times] if self.layout.times else []
        assert list(found.behaviors) == list(self.layout.behaviors)
        for place, column in enumerate(columns):
            assert same(column.tolist(), [event[place] for event in kept])
        user = found.user and {
            name: one.tolist() if isinstance(one, np.ndarray) else one
            for name, one in found.user.items()
        }
        assert same(user, self.user)
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


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=STEPS, data=st.data())
def test_any_sequence_is_that_of_a_list(layout, store_url, steps, data):
    """Blocks, cuts and numbers never show: a store is a list per user."""

    def features(kinds):
        if not kinds:
            return {}
        names = st.lists(st.sampled_from(list(kinds)), unique=True)
        return {name: kinds[name] for name in data.draw(names)}

    store = open_store(store_url, layout, limit=1000, timeout=20)
    try:
        # Two neighbors must stay as they are.
        for neighbor in (-1, 1):
            at = [9] if layout.times else None
            record = UserRecord(neighbor, None, [neighbor], times=at)
            store.replace_many([record])
        store.replace_many([UserRecord(0)])
        plain, counter = Plain(layout), 0
        ends = {store.read(0).end}
        for kind, number in steps:
            items = numbers(counter, number, 0x9E3779B97F4A7C1)
            behaviors = {
                name: values(one, counter, number, 2**40 + 2 * place + 1)
                for place, (name, one) in enumerate(
                    features(layout.behaviors).items()
                )
            }
            times = None
            if layout.times:
                times = list(range(counter, counter + number))
            given = None
            if kind == "user" or data.draw(st.booleans()):
                given = {
                    name: values(one, counter - 7, 1, 3)[0]
                    for name, one in features(layout.user).items()
                }
            if kind in ("append", "replace", "user"):
                if kind == "replace":
                    record = UserRecord(0, given, items, behaviors, times)
                    store.replace_many([record])
                    plain = Plain(layout)
                elif kind == "append":
                    store.append(0, items, behaviors, given, times)
                else:
                    store.set_user(0, given)
                plain.add(items, behaviors, times)
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
