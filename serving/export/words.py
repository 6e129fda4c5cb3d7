"""Words of the user cache: a payload and the mark of its write, in an int64.

Nothing is atomic across the words of a variable, but one aligned word is
never seen half written. So every word says which write it belongs to, and a
reader that finds one mark in all the words it uses has read one write.

From the highest bit down: one bit that is set in every word that was written
(so that it is negative, and 0 is none), the lowest `tag_bits` bits of the
generation of the write, and the payload.
"""

import dataclasses

import tensorflow as tf

# Least bits of the generation in a word: so many prefetches, less one, may
# start while another one writes.
MIN_TAG_BITS = 16
# A payload holds half an id.
HALF_BITS = 32
_WRITTEN = -(1 << 63)


@dataclasses.dataclass(frozen=True)
class WordFormat:
    """How the 64 bits of a word are shared out."""

    row_bits: int
    category_bits: int

    def __post_init__(self) -> None:
        if self.tag_bits < MIN_TAG_BITS:
            raise ValueError(
                f"A word of the user cache holds {self.row_bits} bits of the "
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
        """Number of bits of the generation that a word holds."""
        return 63 - self.payload_bits

    def mark(self, generation: tf.Tensor) -> tf.Tensor:
        """Return what is added to the payloads of a generation, int64."""
        tag = generation & _ones(self.tag_bits)
        return tf.bitwise.left_shift(tag, self.payload_bits) | _WRITTEN

    def mark_of(self, words: tf.Tensor) -> tf.Tensor:
        """Return the marks of words; 0 where nothing was written."""
        return words & (-1 << self.payload_bits)

    def payload_of(self, words: tf.Tensor) -> tf.Tensor:
        """Return the payloads of words, int64 of at least 0."""
        return words & _ones(self.payload_bits)

    def pack_behaviors(
        self, rows: tf.Tensor, categories: tf.Tensor
    ) -> tf.Tensor:
        """Return payloads of int64 rows and categories, of equal shape."""
        return tf.bitwise.left_shift(rows, self.category_bits) | categories

    def unpack_behaviors(
        self, payloads: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return int64 rows and categories of payloads."""
        rows = tf.bitwise.right_shift(payloads, self.category_bits)
        return rows, payloads & _ones(self.category_bits)


def halves(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the low and the high half of int64 values, each a payload."""
    high = tf.bitwise.right_shift(values, HALF_BITS)
    return values & _ones(HALF_BITS), high & _ones(HALF_BITS)


def joined(low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    """Return the int64 values of their halves."""
    return tf.bitwise.left_shift(high, HALF_BITS) | low


def _ones(bits: int) -> int:
    return (1 << bits) - 1
