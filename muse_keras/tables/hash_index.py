"""A perfect hash of the item ids: one slot per id, found without a search.

Two levels. An id's hash names a bucket (about two ids each); the bucket's
*pilot*, one byte, is mixed into the hash and then names a slot. The pilots are
chosen when the index is built so that no two ids share a slot. A slot holds
the index of its id among the sorted ids. An unknown id lands on some slot as
well, so the lookup compares it with the id stored there. Hence a lookup is
three gathers of one element (pilot, slot, id), whatever the ids are, and an
empty slot may hold anything.

The hash is a bijection of 64 bits, so that ids never share a whole hash; its
multiplier is exchanged if the pilots run out. `id_index.hashed_rows` is the
same arithmetic as graph code.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from muse_keras.tables.array_blocks import blocks

# Odd constants: multiplication by them is a bijection of 64 bits.
MULTIPLIERS = (
    0x9E3779B97F4A7C15,
    0xBF58476D1CE4E5B9,
    0x94D049BB133111EB,
    0xFF51AFD7ED558CCD,
)
FINAL_MULTIPLIER = 0xD6E8FEB86659FD93
PILOT_MULTIPLIER = 0xC2B2AE3D27D4EB4F
NUM_PILOTS = 256

_IDS_PER_BUCKET = 2
_SLOTS_PER_ID = 4 / 3
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)

Ids = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


@dataclasses.dataclass(frozen=True)
class HashIndex:
    """The arrays of an index; `index_sizes` gives their lengths.

    Attributes:
        multiplier: uint64 (), of the hash.
        pilots: uint8 (buckets,).
        slots: uint32 (slots,), index into the sorted ids.
    """

    multiplier: npt.NDArray[np.uint64]
    pilots: npt.NDArray[np.uint8]
    slots: npt.NDArray[np.uint32]


def index_sizes(num_items: int) -> tuple[int, int]:
    """Return the number of buckets and of slots for a number of ids."""
    return (
        num_items // _IDS_PER_BUCKET + 1,
        int(num_items * _SLOTS_PER_ID) + 1,
    )


def build_hash_index(item_ids: Ids, num_pilots: int = NUM_PILOTS) -> HashIndex:
    """Return the index of unique int64 ids (N,), N < 2**31.

    Takes about a third of a second per million ids, and 16 bytes per id of
    memory besides the result. Raises `ValueError` if ids are repeated.
    """
    for multiplier in MULTIPLIERS:
        index = _try_build(item_ids, np.uint64(multiplier), num_pilots)
        if index is not None:
            return index
    raise ValueError("`item_ids` must be unique: no perfect hash was found.")


def _try_build(
    item_ids: Ids, multiplier: np.uint64, num_pilots: int
) -> HashIndex | None:
    """Return the index with this multiplier, or None if pilots run out."""
    num_buckets, num_slots = index_sizes(len(item_ids))
    index = HashIndex(
        np.array(multiplier),
        np.zeros(num_buckets, np.uint8),
        np.zeros(num_slots, np.uint32),
    )
    order = _sorted_by_bucket(item_ids, multiplier)
    starts, sizes = _buckets(order, num_buckets)
    taken = np.zeros(num_slots, np.bool_)
    # Large buckets first, while most slots are free.
    for size in range(sizes.max(initial=0), 0, -1):
        chosen = starts[sizes == size]
        for block in blocks(len(chosen)):
            entries = order[chosen[block, None] + np.arange(size, dtype="u4")]
            indices = (entries & _LOW).astype(np.uint32)
            buckets = _scaled(entries[:, 0], num_buckets)
            hashes = _hashed(item_ids[indices], multiplier)
            if not _place(hashes, indices, buckets, index, taken, num_pilots):
                return None
    return index


def _place(
    hashes: Hashes,
    indices: npt.NDArray[np.uint32],
    buckets: npt.NDArray[np.int64],
    index: HashIndex,
    taken: npt.NDArray[np.bool_],
    num_pilots: int,
) -> bool:
    """Give buckets of one size (n, size) pilots with free slots.

    All buckets try one pilot at a time together and write their ids' indices
    into free slots. A bucket that reads all of its own indices back keeps the
    slots; the values that the others wrote are overwritten later. Returns
    whether every bucket found a pilot.
    """
    for pilot in range(num_pilots):
        factor = np.uint64((2 * pilot + 1) * PILOT_MULTIPLIER % 2**64)
        slots = _scaled(hashes * factor, len(taken))
        free = np.flatnonzero(~taken[slots].any(axis=1))
        index.slots[slots[free]] = indices[free]
        own = index.slots[slots[free]] == indices[free]
        won = free[own.all(axis=1)]
        taken[slots[won]] = True
        index.pilots[buckets[won]] = pilot
        if len(won) == len(hashes):
            return True
        left = np.ones(len(hashes), np.bool_)
        left[won] = False
        hashes, indices, buckets = hashes[left], indices[left], buckets[left]
    return False


def _sorted_by_bucket(item_ids: Ids, multiplier: np.uint64) -> Hashes:
    """Return, in order of the hash, its upper half and the id's index."""
    order = np.empty(len(item_ids), np.uint64)
    for block in blocks(len(item_ids)):
        upper = _hashed(item_ids[block], multiplier) & ~_LOW
        order[block] = upper | np.arange(
            block.start, block.stop, dtype=np.uint64
        )
    order.sort()
    return order


def _buckets(
    order: Hashes, num_buckets: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Return first place in `order` and size of every bucket in use."""
    is_first = np.ones(len(order), np.bool_)
    for block in blocks(len(order)):
        some = _scaled(order[max(block.start - 1, 0) : block.stop], num_buckets)
        is_first[max(block.start, 1) : block.stop] = some[1:] != some[:-1]
    starts = np.flatnonzero(is_first).astype(np.uint32)
    return starts, np.diff(starts, append=np.uint32(len(order)))


def _hashed(ids: Ids, multiplier: np.uint64) -> Hashes:
    bits = ids.view(np.uint64)
    bits = (bits ^ (bits >> _HALF)) * multiplier
    return (bits ^ (bits >> _HALF)) * np.uint64(FINAL_MULTIPLIER)


def _scaled(hashes: Hashes, size: int) -> npt.NDArray[np.int64]:
    """Return the upper half of hashes, scaled to [0, size)."""
    return (((hashes >> _HALF) * np.uint64(size)) >> _HALF).astype(np.int64)
