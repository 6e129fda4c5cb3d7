"""Cells of the user cache: a value and the mark of who wrote it, in an int64.

Nothing is atomic across the cells of a variable, but one aligned cell is
never seen half written. So every cell says which write it belongs to, and a
reader that finds one mark in all the cells it uses has read one write.

From the highest bit down: one bit that is set in every cell that was written
(so that it is negative, and 0 is none), the lowest `tag_bits` bits of the
generation of the write, and the payload.
"""

import dataclasses

import tensorflow as tf

# Least bits of the generation in a cell: so many prefetches, less one, may
# start while another one writes.
MIN_TAG_BITS = 16
# A payload holds half an id.
HALF_BITS = 32


@dataclasses.dataclass(frozen=True)
class CellFormat:
    """How the 64 bits of a cell are shared out.

    Attributes:
        row_bits: bits of a behaviour's row.
        category_bits: bits of its category.

    Raises:
        ValueError: if too few bits are left for the tag.
    """

    row_bits: int
    category_bits: int

    def __post_init__(self) -> None:
        """Check that the tag is long enough."""
        if self.tag_bits < MIN_TAG_BITS:
            raise ValueError(
                f"A cell of the user cache holds {self.row_bits} bits of the "
                f"row and {self.category_bits} of the category, which leaves "
                f"{self.tag_bits} for the generation; at least {MIN_TAG_BITS} "
                "are needed. Export with `user_cache.users` 0, or with fewer "
                "categories."
            )

    @property
    def payload_bits(self) -> int:
        """Number of bits of a payload."""
        return max(HALF_BITS, self.row_bits + self.category_bits)

    @property
    def tag_bits(self) -> int:
        """Number of bits of the generation that a cell holds."""
        return 63 - self.payload_bits

    def mark(self, generation: tf.Tensor) -> tf.Tensor:
        """Return what is added to the payloads of a generation, int64."""
        tag = tf.bitwise.bitwise_and(generation, _mask(self.tag_bits))
        written = tf.constant(-(1 << 63), tf.int64)
        return tf.bitwise.bitwise_or(
            tf.bitwise.left_shift(tag, _int64(self.payload_bits)), written
        )

    def mark_of(self, cells: tf.Tensor) -> tf.Tensor:
        """Return the marks of cells; 0 where nothing was written."""
        return tf.bitwise.bitwise_and(cells, _int64(-1 << self.payload_bits))

    def payload_of(self, cells: tf.Tensor) -> tf.Tensor:
        """Return the payloads of cells, int64 of at least 0."""
        return tf.bitwise.bitwise_and(cells, _mask(self.payload_bits))

    def pack_behaviors(
        self, rows: tf.Tensor, categories: tf.Tensor
    ) -> tf.Tensor:
        """Return payloads of int64 rows and categories, of equal shape."""
        return tf.bitwise.bitwise_or(
            tf.bitwise.left_shift(rows, _int64(self.category_bits)), categories
        )

    def unpack_behaviors(
        self, payloads: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return int64 rows and categories of payloads."""
        rows = tf.bitwise.right_shift(payloads, _int64(self.category_bits))
        categories = tf.bitwise.bitwise_and(payloads, _mask(self.category_bits))
        return rows, categories


def halves(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the low and the high half of int64 values, each a payload."""
    low = tf.bitwise.bitwise_and(values, _mask(HALF_BITS))
    high = tf.bitwise.right_shift(values, _int64(HALF_BITS))
    return low, tf.bitwise.bitwise_and(high, _mask(HALF_BITS))


def joined(low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    """Return the int64 values of their halves."""
    return tf.bitwise.bitwise_or(
        tf.bitwise.left_shift(high, _int64(HALF_BITS)), low
    )


def _mask(bits: int) -> tf.Tensor:
    """Return an int64 of so many ones."""
    return _int64((1 << bits) - 1)


def _int64(value: int) -> tf.Tensor:
    """Return an int64 constant."""
    return tf.constant(value, tf.int64)
