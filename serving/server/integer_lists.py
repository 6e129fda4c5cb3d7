"""Long lists of integers in JSON, read by NumPy instead of a parser.

A JSON parser makes a Python object of every number, which costs more than
reading it, and it holds the interpreter's lock meanwhile: requests of other
callers wait. Here lists of nothing but integers are cut out of the text
first. A name that no client can guess stands in for each, so that a parser
reads the little that is left, and puts the arrays where the names are.

The digits are read eight at a time: a 64-bit word holds eight characters, and
three multiplications add them up by pairs, fours and eights. All steps are
array operations over all numbers of a list, which run without the lock.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["cut_integer_lists", "parse_integers", "put_back"]

_LARGE = 2048  # bytes of a list from which cutting out is cheaper
# A string without an end reaches to the end of the text: the pattern never
# has to go back.
_STRING_OR_LIST = re.compile(rb'"(?:[^"\\]+|\\.)*(?:"|\\?\Z)|\[', re.S)
_MARK = secrets.token_hex(16)
_INT64 = np.iinfo(np.int64)


def cut_integer_lists(body: bytes) -> tuple[bytes, dict[str, np.ndarray]]:
    """Takes the long lists of integers out of a JSON text.

    Args:
        body: the text; need not be valid.

    Returns:
        The text with a string in the place of each list, and the lists as
        int64 arrays (N,) by those strings. Without such lists the text itself
        and nothing.
    """
    parts: list[bytes | memoryview] = []
    lists: dict[str, np.ndarray] = {}
    view = memoryview(body)
    at = kept = 0
    close = -1
    # Strings are stepped over whole, so that what they contain is no list.
    while found := _STRING_OR_LIST.search(body, at):
        start, at = found.span()
        if body[start] != b"["[0]:
            continue
        if close < at:
            close = body.find(b"]", at)
        if close < 0:
            break
        if body.find(b"[", at, close) >= 0 or body.find(b'"', at, close) >= 0:
            continue
        if close - at >= _LARGE:
            values = parse_integers(view[at:close])
            if values is not None:
                mark = f"{_MARK}{len(lists)}"
                parts += [view[kept:start], b'"' + mark.encode() + b'"']
                lists[mark] = values
                kept = close + 1
        at = close + 1
    if not lists:
        return body, lists
    return b"".join([*parts, view[kept:]]), lists


def put_back(value: Any, lists: Mapping[str, np.ndarray]) -> tuple[Any, int]:
    """Puts arrays into a parsed document.

    Args:
        value: the document; its lists and dicts are changed in place.
        lists: arrays by the strings that stand for them.

    Returns:
        The document, and how many arrays were put. Fewer than there are
        means that some stood where no list may: as the name of a member, or
        under a name that occurs twice.
    """
    if isinstance(value, str):
        array = lists.get(value)
        return (value, 0) if array is None else (array, 1)
    count = 0
    if isinstance(value, dict):
        for name, item in value.items():
            value[name], put = put_back(item, lists)
            count += put
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, (str, list, dict)):
                value[index], put = put_back(item, lists)
                count += put
    return value, count


def parse_integers(text: bytes | memoryview) -> np.ndarray | None:
    """Reads integers between commas.

    Args:
        text: what stands between the brackets of a JSON list.

    Returns:
        int64 (N,), or None if it is anything but JSON integers of 64 bits
        with a sign.
    """
    size = len(text)
    if size == 0:
        return None
    # Eight characters in front, so that each number's word can be read, and
    # a comma behind, so that each number has an end.
    padded = np.empty(size + 9, np.uint8)
    padded[:8] = padded[-1] = ord(",")
    padded[8:-1] = np.frombuffer(text, np.uint8)
    is_digit = padded - np.uint8(ord("0")) < 10
    edges = np.flatnonzero(is_digit[1:] != is_digit[:-1])
    edges += 1
    starts, ends = edges[0::2], edges[1::2]
    if not starts.size:
        return None
    negative = padded[starts - 1] == ord("-")
    if not _is_list(padded, is_digit, starts, ends, negative):
        return None
    lengths = ends - starts
    if lengths.max() > 19:
        return None
    if np.any((padded[starts] == ord("0")) & (lengths > 1)):
        return None
    magnitude = _digits(padded, ends, lengths)
    if np.any(magnitude > np.uint64(_INT64.max) + negative):
        return None
    values = magnitude.view(np.int64)
    np.negative(values, out=values, where=negative)
    return values


def _is_list(
    padded: np.ndarray,
    is_digit: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    negative: np.ndarray,
) -> bool:
    """Tells whether one comma, blanks and signs are all between numbers."""
    text = padded[8:-1]
    is_comma = text == ord(",")
    commas = np.count_nonzero(is_comma)
    signs = np.count_nonzero(negative)
    if commas != starts.size - 1 or np.count_nonzero(text == 45) != signs:
        return False
    known = np.count_nonzero(is_digit) + commas + signs
    if known == text.size:
        # No blanks: one character between two numbers is the comma.
        gaps = starts[1:] - ends[:-1] - negative[1:]
        return bool(np.all(gaps == 1))
    for blank in b" \n\r\t":
        known += np.count_nonzero(text == blank)
    places = np.flatnonzero(is_comma) + 8
    apart = np.all(places >= ends[:-1]) and np.all(places < starts[1:])
    return bool(known == text.size and apart)


def _digits(
    padded: np.ndarray, ends: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """Value of the digits before each end, uint64; at most 19 of them."""
    # The word that starts at each character, little-endian.
    words = np.lib.stride_tricks.as_strided(
        padded[:8].view("<u8"), (padded.size - 7,), (1,), writeable=False
    )
    total = np.zeros(ends.size, np.uint64)
    for done in range(0, int(lengths.max()), 8):
        word = words[np.maximum(ends - (done + 8), 0)]
        # The last digit is the highest byte. What stands before the number
        # is shifted out, and zeros come in.
        strange = (8 * np.clip(8 + done - lengths, 0, 8)).astype(np.uint64)
        word &= np.uint64(0x0F0F0F0F0F0F0F0F)
        word >>= strange
        word <<= strange
        word *= np.uint64(1 + (10 << 8))
        word >>= np.uint64(8)
        word &= np.uint64(0x00FF00FF00FF00FF)
        word *= np.uint64(1 + (100 << 16))
        word >>= np.uint64(16)
        word &= np.uint64(0x0000FFFF0000FFFF)
        word *= np.uint64(1 + (10_000 << 32))
        word >>= np.uint64(32)
        word *= np.uint64(10**done)
        total += word
    return total
