"""A set-associative cache of users' histories in the memory of the device.

A user belongs to one set of a few slots (the ways). A slot consists of a
*header* (user, length, generation, time and features) and the behaviors, one
word each; see `words`. `write` stores one whole history and draws a generation
for it; `read` finds the newest history of a user.

TensorFlow Serving runs calls concurrently and offers no atomicity across
variables. A writer clears the slot's header, writes the behaviors and then the
new header, all with the mark of its generation. If a reader finds the same mark
in the header, before and after, and in every behavior, all of it comes from one
write, whatever ran concurrently: marks of different writers differ as long as
fewer than `2**tag_bits` prefetches start while one of them writes. Otherwise
the read is a miss.

A write replaces a free or expired slot, or else the least recently used one.
Taking a slot counts as a use, so two writers rarely choose the same slot. The
newest slot of the same user is never replaced, because it serves rankings until
the new one is complete. Uses are numbered by a counter, not by time.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from muse_keras.tables.id_index import hash_ids
from muse_keras.tables.row_gather import gather_frozen, scatter_rows
from serving.export.saving import ZeroFill, unsaved_zeros
from serving.export.user_cache_config import UserCacheConfig
from serving.export.words import HEADER_WORDS, WordFormat

# Number of behaviors that are read and written together.
CHUNK = 500

STATISTICS = ("hits", "misses", "prefetches", "evictions", "expired", "mixed")

_STATE = (
    "headers",
    "behaviors",
    "last_used",
    "statistics",
    "generations",
    "uses",
)

# Multiplier of the hash that selects a user's set.
_MULTIPLIER = 0x9E3779B97F4A7C15
# The counter-based generator whose counter numbers generations and uses, and
# the bits of the counter's step for each number drawn.
_PHILOX = 1
_STEP_BITS = 8
_MICROSECONDS = 1_000_000
_NEVER = (1 << 63) - 1


class Histories(NamedTuple):
    """Features and histories of B users; `read` also sets `hit`."""

    user: tf.Tensor  # int64 (B, U), indices.
    rows: tf.Tensor  # integer (B, L), table rows, oldest first.
    behaviors: Sequence[tf.Tensor]  # int64 (B, L) each, indices.
    mask: tf.Tensor  # bool (B, L), True for the user's behaviors.
    user_numbers: Any = None  # float32 (B, V), which the cache has in `user`.
    hit: Any = None  # bool (B,), whether a complete history was found.
    generation: Any = None  # int64 (B,), 0 for a miss.


class UserCache(tf.Module):
    """Holds the histories of the most recently used users."""

    def __init__(
        self,
        config: UserCacheConfig,
        format: WordFormat,
        num_user_features: int,
        now: Callable[[], tf.Tensor] | None = None,
    ) -> None:
        super().__init__(name="user_cache")
        self.config = config
        self.format = format
        self._now = now or _now
        self._chunk = min(CHUNK, config.max_length)
        self._chunks = -(-config.max_length // self._chunk)
        self.headers = unsaved_zeros(
            "headers", [config.users, HEADER_WORDS + num_user_features]
        )
        self.behaviors = unsaved_zeros(
            "behaviors", [config.users * self._chunks, self._chunk]
        )
        self.last_used = unsaved_zeros("last_used", [config.users])
        self.statistics = unsaved_zeros("statistics", [len(STATISTICS)])
        # States of generators: two words of the counter and a key.
        self.generations = unsaved_zeros("generations", [3])
        self.uses = unsaved_zeros("uses", [3])
        state = self.state()
        self.bytes = sum(8 * v.shape.num_elements() for v in state.values())
        self._zero_fill = ZeroFill(list(state.values()))

    def state(self) -> dict[str, tf.Variable]:
        """Return all variables by name."""
        return {name: getattr(self, name) for name in _STATE}

    def write(
        self,
        users: tf.Tensor,
        features: tf.Tensor,
        rows: tf.Tensor,
        behaviors: Sequence[tf.Tensor],
        mask: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Store histories of users int64 (B,), one after the other.

        The other arguments have the shapes of `Histories`; `mask` is True for
        at most `max_length` behaviors of each user. Returns lengths and
        generations int64 (B,), both 0 if another writer took the slot.
        """
        payloads = self.format.pack_behaviors(rows, behaviors)
        number = tf.TensorSpec([], tf.int64)
        stored: tuple[tf.Tensor, tf.Tensor] = tf.map_fn(
            lambda one: self._write_one(*one),
            (users, features, payloads, mask),
            fn_output_signature=(number, number),
            parallel_iterations=1,
        )
        return stored

    def read(self, users: tf.Tensor) -> Histories:
        """Return the newest histories of users (B,); counts as a use."""
        slots, header, present = self._find(users)
        headers = self.format.unpack_headers(header)
        expired = present & self._expired(headers.written)
        wanted = present & ~expired
        words, mask, whole = self._read_behaviors(
            slots, header, _where(wanted, headers.length)
        )
        hit = wanted & whole
        self._touch(slots, hit)
        self._count(hits=hit, misses=~hit, expired=expired, mixed=wanted & ~hit)
        rows, behaviors = self.format.unpack_behaviors(
            self.format.payload_of(words)
        )
        return Histories(
            hit=hit,
            generation=_where(hit, headers.generation),
            user=headers.features,
            rows=rows,
            behaviors=behaviors,
            mask=mask & hit[:, tf.newaxis],
        )

    def peek(self, users: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the cache's state for users (B,); does not count as a use.

        `length` int64 (B,), -1 if not cached; `generation` int64 (B,);
        `age_seconds` float32 (B,); and for the whole cache, repeated as int64
        (B,): `capacity`, `occupied`, `max_length`, `bytes` and the
        `STATISTICS`.
        """
        _, header, present = self._find(users)
        headers = self.format.unpack_headers(header)
        present &= ~self._expired(headers.written)
        age = tf.maximum(self._now() - headers.written, 0)
        every = tf.ones_like(users)
        statistics = self.statistics.read_value()
        return {
            "length": tf.where(
                present, headers.length, -tf.ones_like(headers.length)
            ),
            "generation": _where(present, headers.generation),
            "age_seconds": tf.cast(_where(present, age), tf.float32)
            / _MICROSECONDS,
            "capacity": every * self.config.users,
            "occupied": every * self._occupied(),
            "max_length": every * self.config.max_length,
            "bytes": every * self.bytes,
            **{
                name: every * statistics[place]
                for place, name in enumerate(STATISTICS)
            },
        }

    def _write_one(
        self,
        user: tf.Tensor,
        features: tf.Tensor,
        payloads: tf.Tensor,
        mask: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Store one history; return its length and generation, or 0, 0."""
        chosen = tf.where(mask)
        # The size of a tensor is known on the host.
        length = tf.shape(chosen, tf.int64)[0]
        generation = self._draw(self.generations, 1)[0] + 1
        mark = self.format.mark(generation)
        words = mark + self._in_chunks(tf.gather_nd(payloads, chosen))
        slots = self._slots(user[tf.newaxis])[0]
        slot = self._take_slot(user, slots)
        with tf.control_dependencies([slot]):
            first = slot * self._chunks
            rows = first + tf.range(tf.shape(words, tf.int64)[0])
            written = scatter_rows(self.behaviors, rows, words)
        header = self.format.pack_header(
            user, length, generation, self._now(), features
        )
        with tf.control_dependencies(_operations(written)):
            published = scatter_rows(
                self.headers, slot[tf.newaxis], header[tf.newaxis]
            )
        with tf.control_dependencies(_operations(published)):
            replaced = self._drop_older(user, slots)
        with tf.control_dependencies(replaced):
            *_, whole = self._read_behaviors(
                slot[tf.newaxis], header[tf.newaxis], length[tf.newaxis]
            )
            stored = whole[0]
        self._count(prefetches=tf.ones_like(stored))
        return _where(stored, length), _where(stored, generation)

    def _take_slot(self, user: tf.Tensor, slots: tf.Tensor) -> tf.Tensor:
        """Return the slot to write to, after clearing its header."""
        headers = self.format.unpack_headers(gather_frozen(self.headers, slots))
        expired = headers.whole & self._expired(headers.written)
        live = headers.whole & ~expired
        own = live & tf.equal(headers.user, user)
        # The most recently used slot has the highest number. A slot that
        # another call is writing to counts as used although it is empty.
        used = gather_frozen(self.last_used, slots)
        keys = tf.where(expired, -tf.ones_like(used), used)
        if self.config.ways > 1:
            generations = _where(own, headers.generation)
            newest = own & tf.equal(generations, tf.reduce_max(generations))
            keys = tf.where(newest, tf.fill(tf.shape(keys), _NEVER), keys)
        way = _smallest(keys)
        slot = tf.gather(slots, way)
        self._count(evictions=tf.gather(live & ~own, way))
        number = self._draw(self.uses, 1)
        touched = tf.raw_ops.ResourceScatterMax(
            resource=self.last_used.handle,
            indices=slot[tf.newaxis],
            updates=number + 1,
        )
        cleared = scatter_rows(
            self.headers,
            slot[tf.newaxis],
            tf.zeros([1, self.headers.shape[1]], tf.int64),
        )
        with tf.control_dependencies(_operations(touched, cleared)):
            return tf.identity(slot)

    def _drop_older(self, user: tf.Tensor, slots: tf.Tensor) -> list[Any]:
        """Free all slots of a user except the newest.

        Each writer does this after it has published its header. If two publish
        concurrently, the later one sees both, so the older slot is freed.
        """
        headers = self.format.unpack_headers(gather_frozen(self.headers, slots))
        own = headers.whole & tf.equal(headers.user, user)
        generations = _where(own, headers.generation)
        older = own & (generations < tf.reduce_max(generations))
        dropped = tf.gather_nd(slots, tf.where(older))
        shape = tf.stack([tf.size(dropped), self.headers.shape[1]])
        cleared = scatter_rows(self.headers, dropped, tf.zeros(shape, tf.int64))
        freed = scatter_rows(self.last_used, dropped, tf.zeros_like(dropped))
        return _operations(cleared, freed)

    def _find(self, users: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return slot (B,), header (B, H) and presence (B,) of users."""
        slots = self._slots(users)
        found = gather_frozen(self.headers, slots)
        headers = self.format.unpack_headers(found)
        own = headers.whole & tf.equal(headers.user, users[:, tf.newaxis])
        way = _smallest(-_where(own, headers.generation))
        return (
            tf.gather(slots, way, batch_dims=1),
            tf.gather(found, way, batch_dims=1),
            tf.reduce_any(own, axis=1),
        )

    def _read_behaviors(
        self, slots: tf.Tensor, header: tf.Tensor, lengths: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Read behaviors of slots (B,) whose headers (B, H) were read before.

        Only the chunks of the longest history are read. Returns words (B, L),
        which of them are in use, and whether these and the header (B,) come
        from one write.
        """
        starts = tf.range(self._chunks, dtype=tf.int64) * self._chunk
        needed = tf.reduce_any(starts < lengths[:, tf.newaxis], axis=0)
        # The list of places has a size that is known on the host.
        places = tf.where(needed)[:, 0]
        rows = slots[:, tf.newaxis] * self._chunks + places
        count = tf.shape(places, tf.int64)[0] * self._chunk
        words = tf.reshape(
            gather_frozen(self.behaviors, rows),
            tf.stack([tf.shape(slots, tf.int64)[0], count]),
        )
        mask = tf.range(count) < lengths[:, tf.newaxis]
        with tf.control_dependencies([words]):
            again = gather_frozen(self.headers, slots)
        return words, mask, self._is_whole(header, again, words, mask)

    def _is_whole(
        self,
        header: tf.Tensor,
        again: tf.Tensor,
        words: tf.Tensor,
        mask: tf.Tensor,
    ) -> tf.Tensor:
        """Return whether headers (B, H) and used words come from one write."""
        marks = self.format.mark_of(header[:, :1])
        same = tf.equal(self.format.mark_of(words), marks)
        return tf.reduce_all(tf.equal(header, again), axis=1) & (
            tf.reduce_all(same | ~mask, axis=1)
        )

    def _in_chunks(self, payloads: tf.Tensor) -> tf.Tensor:
        """Return payloads (n,) as (chunks, chunk), padded with 0."""
        size = tf.shape(payloads, tf.int64)[0]
        missing = -(-size // self._chunk) * self._chunk - size
        # `Pad` has no GPU kernel for int64.
        filled = tf.concat([payloads, tf.zeros([missing], tf.int64)], axis=0)
        return tf.reshape(filled, (-1, self._chunk))

    def _slots(self, users: tf.Tensor) -> tf.Tensor:
        """Return the slots (B, ways) of the sets of users (B,)."""
        sets = self.config.users // self.config.ways
        hashes = hash_ids(tf.constant(_MULTIPLIER, tf.uint64), users)
        scaled = tf.bitwise.right_shift(hashes, 32) * sets
        chosen = tf.bitcast(tf.bitwise.right_shift(scaled, 32), tf.int64)
        ways = tf.range(self.config.ways, dtype=tf.int64)
        return chosen[:, tf.newaxis] * self.config.ways + ways

    def _expired(self, written: tf.Tensor) -> tf.Tensor:
        if not self.config.expire_seconds:
            return tf.zeros_like(written, tf.bool)
        limit = self.config.expire_seconds * _MICROSECONDS
        return self._now() - written >= limit

    def _occupied(self) -> tf.Tensor:
        every = tf.range(self.config.users, dtype=tf.int64)
        headers = self.format.unpack_headers(gather_frozen(self.headers, every))
        live = headers.whole & ~self._expired(headers.written)
        return tf.reduce_sum(tf.cast(live, tf.int64))

    def _touch(self, slots: tf.Tensor, hit: tf.Tensor) -> None:
        """Mark the slots (B,) with a hit as used now."""
        count = tf.shape(slots, tf.int64)[0]
        numbers = self._draw(self.uses, count)[0] + 1 + tf.range(count)
        tf.raw_ops.ResourceScatterMax(
            resource=self.last_used.handle,
            indices=slots,
            updates=_where(hit, numbers),
        )

    def _count(self, **events: tf.Tensor) -> None:
        """Add the number of True values to the statistics."""
        sums = [
            tf.reduce_sum(tf.cast(events.get(name, False), tf.int64))
            for name in STATISTICS
        ]
        self.statistics.assign_add(tf.stack(sums), read_value=False)

    def _draw(self, counter: tf.Variable, count: tf.Tensor | int) -> tf.Tensor:
        """Take `count` numbers from a counter; return the first, int64 (1,)."""
        state = tf.raw_ops.RngReadAndSkip(
            resource=counter.handle,
            alg=_PHILOX,
            delta=tf.cast(count, tf.uint64),
        )
        return tf.bitwise.right_shift(state[:1], _STEP_BITS)


def _smallest(keys: tf.Tensor) -> tf.Tensor:
    """Return the index (...) of the first smallest key of (..., n).

    `ArgMin` has no GPU kernel for int64.
    """
    # The complement reverses the order, even for the smallest int64.
    places = tf.math.top_k(tf.bitwise.invert(keys), k=1).indices
    # Cast to int64 first, because a slice of int32 runs on the host.
    return tf.cast(places, tf.int64)[..., 0]


def _where(mask: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    return tf.where(mask, values, tf.zeros_like(values))


def _operations(*operations: Any) -> list[Any]:
    """Return the operations that are not None, as they are in eager mode."""
    return [operation for operation in operations if operation is not None]


def _now() -> tf.Tensor:
    return tf.cast(tf.timestamp() * _MICROSECONDS, tf.int64)
