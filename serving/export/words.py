"""Words of the user cache: int64 with a payload and the mark of the write.

TensorFlow has no atomicity across the words of a variable, but a single aligned
word is always written completely. Therefore every word states which write it
belongs to: if all words have the same mark, the reader has read one write.

From the highest bit down, a word has one bit that is set in every written word
(which is thus negative, while 0 is empty), the lowest `tag_bits` bits of the
generation of the write, and the payload.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import tensorflow as tf

# Minimum number of generation bits in a word; 2**bits - 1 prefetches may start
# while another one writes.
MIN_TAG_BITS = 16
# A payload holds half of an id.
HALF_BITS = 32
_SET = -(1 << 63)
# Positions of the numbers in a header; 64 bits take two words.
_USER, _LENGTH, _GENERATION, _WRITTEN = 0, 2, 3, 5
HEADER_WORDS = 7
"""Number of header words before the features of the user."""


class Headers(NamedTuple):
    """Unpacked headers (...); `whole` if all words come from one write."""

    whole: tf.Tensor
    user: tf.Tensor
    length: tf.Tensor
    generation: tf.Tensor
    written: tf.Tensor
    features: tf.Tensor


@dataclasses.dataclass(frozen=True)
class WordFormat:
    """Distribution of the 64 bits of a word.

    Attributes:
        row_bits: bits for the row of an item.
        feature_bits: bits for the index of each behavior feature, by name.

    Raises:
        ValueError: if too few bits are left.
    """

    row_bits: int
    feature_bits: Mapping[str, int]

    def __post_init__(self) -> None:
        if self.tag_bits < MIN_TAG_BITS:
            features = ", ".join(
                f"{name} {bits}" for name, bits in self.feature_bits.items()
            )
            raise ValueError(
                "A word of the user cache holds the row of a behavior "
                f"({self.row_bits} bits) and its features ({features}), which "
                f"leaves {self.tag_bits} of 63 bits for the generation; at "
                f"least {MIN_TAG_BITS} are needed. Export with "
                "`user_cache.users` 0, with fewer features of behaviors or "
                "with smaller vocabularies of them."
            )

    @property
    def payload_bits(self) -> int:
        """Number of bits of a payload."""
        return max(HALF_BITS, self.row_bits + sum(self.feature_bits.values()))

    @property
    def tag_bits(self) -> int:
        """Number of bits of the generation that a word holds."""
        return 63 - self.payload_bits

    def mark(self, generation: tf.Tensor) -> tf.Tensor:
        """Return the int64 to add to the payloads of a generation."""
        tag = generation & _ones(self.tag_bits)
        return tf.bitwise.left_shift(tag, self.payload_bits) | _SET

    def mark_of(self, words: tf.Tensor) -> tf.Tensor:
        """Return the marks of words, 0 for empty words."""
        return words & (-1 << self.payload_bits)

    def payload_of(self, words: tf.Tensor) -> tf.Tensor:
        """Return the payloads of words, int64 >= 0."""
        return words & _ones(self.payload_bits)

    def pack_behaviors(
        self, rows: tf.Tensor, features: Iterable[tf.Tensor]
    ) -> tf.Tensor:
        """Return payloads of int64 rows and features of the same shape."""
        payloads = rows
        for bits, values in zip(
            self.feature_bits.values(), features, strict=True
        ):
            payloads = tf.bitwise.left_shift(payloads, bits) | values
        return payloads

    def unpack_behaviors(
        self, payloads: tf.Tensor
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        """Return int64 rows and features of payloads."""
        features = []
        for bits in reversed(tuple(self.feature_bits.values())):
            features.append(payloads & _ones(bits))
            payloads = tf.bitwise.right_shift(payloads, bits)
        return payloads, tuple(reversed(features))

    def pack_header(
        self,
        user: tf.Tensor,
        length: tf.Tensor,
        generation: tf.Tensor,
        written: tf.Tensor,
        features: tf.Tensor,
    ) -> tf.Tensor:
        """Return the words of a header, for int64 numbers and features (U,)."""
        numbers = (
            *_halves(user),
            length,
            *_halves(generation),
            *_halves(written),
        )
        return self.mark(generation) + tf.concat(
            [tf.stack(numbers), features], axis=0
        )

    def unpack_headers(self, words: tf.Tensor) -> Headers:
        """Unpack headers (..., H)."""
        marks = self.mark_of(words)
        payloads = self.payload_of(words)

        def value(place: int) -> tf.Tensor:
            high = tf.bitwise.left_shift(payloads[..., place + 1], HALF_BITS)
            return high | payloads[..., place]

        return Headers(
            whole=tf.reduce_all(tf.equal(marks, marks[..., :1]), axis=-1)
            & (marks[..., 0] < 0),
            user=value(_USER),
            length=payloads[..., _LENGTH],
            generation=value(_GENERATION),
            written=value(_WRITTEN),
            features=payloads[..., HEADER_WORDS:],
        )


def pack_numbers(numbers: tf.Tensor) -> tf.Tensor:
    """Return float32 numbers as payloads: their bits, int64."""
    return tf.cast(tf.bitcast(numbers, tf.uint32), tf.int64)


def unpack_numbers(payloads: tf.Tensor) -> tf.Tensor:
    """Return the float32 numbers of payloads."""
    return tf.bitcast(tf.cast(payloads, tf.uint32), tf.float32)


def _halves(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the low and the high half of int64 values as two payloads."""
    high = tf.bitwise.right_shift(values, HALF_BITS)
    return values & _ones(HALF_BITS), high & _ones(HALF_BITS)


def _ones(bits: int) -> int:
    return (1 << bits) - 1
