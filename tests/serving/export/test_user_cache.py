"""The user cache alone, against a model of it in Python."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.export import UserCacheConfig

tf = pytest.importorskip("tensorflow")

WAYS, LENGTH, EXPIRE = 3, 700, 10
SECOND = 1_000_000


class Cache:
    """A cache of two sets, with a clock that the test moves."""

    def __init__(self, **settings: Any) -> None:
        from serving.export.user_cache import UserCache
        from serving.export.words import WordFormat

        self.clock = tf.Variable(SECOND, dtype=tf.int64)
        config = UserCacheConfig(
            **{
                "users": 2 * WAYS,
                "ways": WAYS,
                "max_length": LENGTH,
                "expire_seconds": EXPIRE,
                **settings,
            }
        )
        self.cache = UserCache(
            config,
            WordFormat(27, {"category": 10}),
            2,
            now=lambda: self.clock.read_value(),
        )
        ids = tf.TensorSpec([None], tf.int64)
        table = tf.TensorSpec([None, None], tf.int64)
        mask = tf.TensorSpec([None, None], tf.bool)

        def traced(function: Any, *specs: Any) -> Any:
            return tf.function(function, specs, autograph=False)

        self.write = traced(self.cache.write, ids, table, table, (table,), mask)
        self.read = traced(self.cache.read, ids)
        self.peek = traced(self.cache.peek, ids)

    def reset(self) -> None:
        for variable in self.cache.state().values():
            variable.assign(tf.zeros_like(variable))
        self.clock.assign(SECOND)

    def put(self, users: list[int], rows: list[list[int]]) -> Any:
        """Write histories of rows; features follow from them."""
        width = max(map(len, rows), default=0)
        padded = np.zeros((len(users), width), np.int64)
        mask = np.zeros(padded.shape, bool)
        for index, row in enumerate(rows):
            padded[index, width - len(row) :] = row
            mask[index, width - len(row) :] = True
        users_array = np.array(users, np.int64)
        lengths, generations = self.write(
            users_array,
            np.stack([users_array & 7, padded.sum(1) & 0xFFFF], 1),
            padded,
            (padded % 1000,),
            mask,
        )
        return lengths.numpy().tolist(), generations.numpy().tolist()

    def get(self, user: int) -> tuple[int, list[int]] | None:
        """Return generation and rows, all parts agreeing, or None."""
        found = self.read(np.array([user], np.int64))
        if not found.hit.numpy()[0]:
            assert found.generation.numpy()[0] == 0
            assert not found.mask.numpy().any()
            return None
        mask = found.mask.numpy()[0]
        rows = found.rows.numpy()[0][mask]
        np.testing.assert_array_equal(
            found.behaviors[0].numpy()[0][mask], rows % 1000
        )
        assert found.user.numpy()[0].tolist() == [
            user & 7,
            rows.sum() & 0xFFFF,
        ]
        return int(found.generation.numpy()[0]), rows.tolist()

    def set_of(self, user: int) -> int:
        slots = self.cache._slots(tf.constant([user], tf.int64))
        return int(slots[0, 0]) // WAYS


@dataclasses.dataclass
class Way:
    user: int
    rows: list[int]
    generation: int
    written: int
    used: int


class Model:
    """What the cache must do, one call after the other."""

    def __init__(self, set_of: Any) -> None:
        self.set_of = set_of
        self.ways: dict[int, list[Way | None]] = {0: [None] * WAYS}
        self.ways[1] = [None] * WAYS
        self.now, self.generation, self.uses = 1, 0, 0
        self.counts = dict.fromkeys(
            ("hits", "misses", "prefetches", "evictions", "expired"), 0
        )

    def _live(self, way: Way | None) -> bool:
        return way is not None and self.now - way.written < EXPIRE

    def put(self, user: int, rows: list[int]) -> tuple[int, int]:
        ways = self.ways[self.set_of(user)]
        self.generation += 1
        self.uses += 1
        self.counts["prefetches"] += 1

        def key(index: int) -> float:
            way = ways[index]
            if way is None:
                return 0  # After one that has expired.
            if not self._live(way):
                return -1
            return np.inf if way.user == user else way.used

        victim = min(range(WAYS), key=key)
        self.counts["evictions"] += self._live(ways[victim])
        for index, way in enumerate(ways):
            if way is not None and way.user == user:
                ways[index] = None
        ways[victim] = Way(user, rows, self.generation, self.now, self.uses)
        return len(rows), self.generation

    def get(self, user: int) -> tuple[int, list[int]] | None:
        self.uses += 1
        for way in self.ways[self.set_of(user)]:
            if way is not None and way.user == user:
                if self._live(way):
                    way.used = self.uses
                    self.counts["hits"] += 1
                    return way.generation, way.rows
                self.counts["expired"] += 1
        self.counts["misses"] += 1
        return None


@pytest.fixture(scope="module")
def cache() -> Cache:
    return Cache()


USERS = st.integers(0, 9).map(lambda n: n if n < 8 else -(2**62) * (n - 7))
ROWS = st.one_of(
    st.integers(0, 3),
    st.sampled_from([499, 500, 501, LENGTH]),
).flatmap(
    lambda n: st.integers(0, 2**26).map(
        lambda seed: np.random.default_rng(seed).integers(0, 2**27, n).tolist()
    )
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), USERS, ROWS),
        st.tuples(st.just("get"), USERS),
        st.tuples(st.just("wait"), st.integers(1, 7)),
    ),
    min_size=5,
    max_size=40,
)


@example(
    steps=[
        *[("put", 2, [])] * 2,
        ("wait", 4),
        *[("put", 0, [])] * 2,
        ("wait", 6),
        ("put", 3, []),
        ("get", 2),
    ]
)
@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_is_a_set_associative_lru_cache(cache: Cache, steps: Any) -> None:
    cache.reset()
    model = Model(cache.set_of)
    for step in steps:
        if step[0] == "put":
            lengths, generations = cache.put([step[1]], [step[2]])
            assert (lengths[0], generations[0]) == model.put(*step[1:])
        elif step[0] == "get":
            assert cache.get(step[1]) == model.get(step[1])
        else:
            model.now += step[1]
            cache.clock.assign_add(step[1] * SECOND)
    known = cache.peek(np.array([0, 1], np.int64))
    for name, count in model.counts.items():
        assert known[name].numpy().tolist() == [count] * 2, name
    live = sum(model._live(w) for ways in model.ways.values() for w in ways)
    assert known["occupied"].numpy()[0] == live
    assert known["mixed"].numpy()[0] == 0


def test_a_batch_is_written_one_after_the_other(cache: Cache) -> None:
    cache.reset()
    users = [4, 4, *range(100, 100 + WAYS * 4), 4]
    rows = [[index] * index for index in range(len(users))]
    lengths, generations = cache.put(users, rows)
    assert lengths == list(range(len(users)))
    assert generations == list(range(1, len(users) + 1))
    assert cache.get(4) == (len(users), rows[-1])
    assert sum(cache.get(u) is not None for u in set(users)) == 2 * WAYS
    assert cache.put([], []) == ([], [])


def test_peek_changes_nothing(cache: Cache) -> None:
    cache.reset()
    cache.put([1], [[5, 6]])
    cache.clock.assign_add(3 * SECOND // 2)
    before = {k: v.numpy() for k, v in cache.cache.state().items()}
    known = cache.peek(np.array([1, 2], np.int64))
    assert known["length"].numpy().tolist() == [2, -1]
    assert known["generation"].numpy().tolist() == [1, 0]
    assert known["age_seconds"].numpy().tolist() == [1.5, 0]
    for name, variable in cache.cache.state().items():
        np.testing.assert_array_equal(variable.numpy(), before[name])


def _tear(cache: Cache, what: str) -> None:
    """Leave user 1's slot as a writer would that was stopped half-way."""
    inner = cache.cache
    headers, words = inner.headers.numpy(), inner.behaviors.numpy()
    slot = int(np.flatnonzero(headers.any(1))[0])
    chunk = slot * inner._chunks
    tag = np.int64(1) << inner.format.payload_bits
    if what == "a word":
        words[chunk, 3] += tag
    elif what == "the last word":
        words[chunk + 1, LENGTH - 513] += tag
    elif what == "a header":
        headers[slot, 2] += tag
    elif what == "half a header":
        headers[slot, :4] = 0
    inner.headers.assign(headers)
    inner.behaviors.assign(words)


@pytest.mark.parametrize(
    "what", ["a word", "the last word", "a header", "half a header"]
)
def test_a_mixture_of_two_writers_is_a_miss(cache: Cache, what: str) -> None:
    cache.reset()
    rows = list(range(LENGTH))
    cache.put([1], [rows])
    assert cache.get(1) == (1, rows)
    _tear(cache, what)
    assert cache.get(1) is None
    known = cache.peek(np.array([1], np.int64))
    # Without a whole header the user is not there at all.
    assert known["mixed"].numpy()[0] == ("word" in what)
    assert cache.put([1], [rows]) == ([LENGTH], [2])
    assert cache.get(1) == (2, rows)


def test_without_the_marks_a_mixture_would_be_ranked_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The check is what stands between a torn slot and a wrong score."""
    from serving.export.user_cache import UserCache

    monkeypatch.setattr(
        UserCache,
        "_is_whole",
        lambda self, header, *others: tf.ones_like(header[:, 0], tf.bool),
    )
    unchecked = Cache()
    unchecked.put([1], [[7] * 10])
    inner = unchecked.cache
    torn = inner.behaviors.numpy()
    slot = int(np.flatnonzero(inner.headers.numpy().any(1))[0])
    next_writers = (1 << inner.format.payload_bits) + (1 << 10)
    torn[slot * inner._chunks, 5] += next_writers
    inner.behaviors.assign(torn)
    found = unchecked.read(np.array([1], np.int64))
    assert found.hit.numpy()[0]
    assert sorted(set(found.rows.numpy()[0][found.mask.numpy()[0]])) == [7, 8]


def test_marks_of_nearby_generations_differ() -> None:
    from serving.export.words import WordFormat

    words = WordFormat(26, {"category": 11})
    assert (words.payload_bits, words.tag_bits) == (37, 26)
    generations = tf.constant([0, 1, 2, (1 << 26) - 1, 1 << 26, (1 << 26) + 1])
    marks = words.mark(tf.cast(generations, tf.int64)).numpy()
    assert (marks < 0).all()
    assert len(set(marks.tolist())) == 4 and marks[0] == marks[4]
    given = [0, 1, (1 << 37) - 1]
    payload = tf.constant(given, tf.int64)
    for mark in marks:
        both = payload + mark
        assert words.mark_of(both).numpy().tolist() == [mark] * 3
        assert words.payload_of(both).numpy().tolist() == given


def test_refuses_words_without_room_for_the_generation() -> None:
    from serving.export.words import WordFormat

    assert WordFormat(31, {"category": 9, "brand": 7}).tag_bits == 16
    with pytest.raises(
        ValueError,
        match=r"31 bits.*\(category 9, brand 8\), which leaves 15 of 63",
    ):
        WordFormat(31, {"category": 9, "brand": 8})


@pytest.mark.parametrize("bits", [(), (10,), (3, 1, 9)])
def test_a_word_keeps_the_row_and_all_features(bits: tuple[int, ...]) -> None:
    from serving.export.words import WordFormat

    words = WordFormat(27, {f"f{n}": size for n, size in enumerate(bits)})
    rng = np.random.default_rng(0)
    rows = np.append(rng.integers(0, 1 << 27, 50), (1 << 27) - 1)
    features = [
        np.append(rng.integers(0, 1 << size, 50), (1 << size) - 1)
        for size in bits
    ]
    payloads = words.pack_behaviors(tf.constant(rows), features)
    np.testing.assert_array_equal(words.payload_of(payloads), payloads)
    found, kept = words.unpack_behaviors(payloads)
    np.testing.assert_array_equal(found, rows)
    assert len(kept) == len(features)
    for mine, packed in zip(kept, features, strict=True):
        np.testing.assert_array_equal(mine, packed)


def test_one_way_replaces_the_users_own(cache: Cache) -> None:
    single = Cache(users=1, ways=1)
    for generation in range(1, 4):
        single.put([9], [[generation]])
        assert single.get(9) == (generation, [generation])
    single.put([8], [[1]])
    assert single.get(9) is None and single.get(8) == (4, [1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"users": -4}, "`users` must be an integer from 0"),
        ({"users": 6, "ways": 4}, "multiple of `ways`"),
        ({"max_length": 0}, "`max_length`"),
        ({"expire_seconds": 0.5}, "`expire_seconds`"),
    ],
)
def test_refuses_sizes(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UserCacheConfig(**wrong)


def test_sets_are_used_alike() -> None:
    wide = Cache(users=64, ways=4)
    ids = np.array(
        list(itertools.chain(range(2000), range(0, 2**40, 2**30))), np.int64
    )
    slots = wide.cache._slots(tf.constant(ids)).numpy()
    assert slots.min() == 0 and slots.max() == 63
    counts = np.bincount(slots[:, 0] // 4, minlength=16)
    assert counts.min() > 0.6 * counts.mean()
