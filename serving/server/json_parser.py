"""JSON text to Python values, failing as TF Serving's parser fails.

orjson reads the text; NaN and Infinity, which TF Serving accepts and JSON
does not, are read by the standard library. Only when both refuse, the text is
walked through again to say what is wrong and where, in RapidJSON's words.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from serving.server.errors import invalid_argument

__all__ = ["parse_json"]

_SPACE = re.compile(rb"[ \n\r\t]*")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)")
_WORDS = (b"true", b"false", b"null")
_SPECIAL = re.compile(rb"-?(?:NaN|Inf(?:inity)?)")
_ESCAPES = b'"\\/bfnrt'


class _Fault(Exception):
    """Where and why RapidJSON would stop."""

    def __init__(self, text: str, offset: int) -> None:
        """Keeps the settings; see the class for the arguments."""
        super().__init__(text)
        self.text = text
        self.offset = offset


def parse_json(body: bytes) -> Any:
    """Reads a JSON document.

    Args:
        body: UTF-8 text.

    Returns:
        dict, list, str, int, float, bool or None. Integers beyond 64 bits
        become floats.

    Raises:
        ServingError: INVALID_ARGUMENT with RapidJSON's text and offset.
    """
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        _Scanner(body).document()
    except _Fault as fault:
        raise invalid_argument(
            f"JSON Parse error: {fault.text} at offset: {fault.offset}"
        ) from None
    try:
        text = re.sub(r"\bInf\b", "Infinity", body.decode())
        return json.loads(text, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        offset = getattr(error, "pos", 0)
        raise invalid_argument(
            f"JSON Parse error: Invalid value. at offset: {offset}"
        ) from None


def _integer(text: str) -> int | float:
    value = int(text)
    return value if -(2**63) <= value < 2**64 else float(value)


class _Scanner:
    """Walks through a document, checking its grammar only."""

    def __init__(self, text: bytes) -> None:
        """Keeps the settings; see the class for the arguments."""
        self.text = text
        self.at = 0

    def document(self) -> None:
        self._space()
        if self.at == len(self.text):
            raise _Fault("The document is empty.", self.at)
        # A stack instead of recursion: depth is the client's choice.
        closers: list[bytes] = []
        self._value(closers)
        while closers:
            self._space()
            if closers[-1] == b"}":
                self._after_member(closers)
            else:
                self._after_element(closers)
        self._space()
        if self.at != len(self.text):
            raise _Fault(
                "The document root must not be followed by other values.",
                self.at,
            )

    def _peek(self) -> bytes:
        return self.text[self.at : self.at + 1]

    def _space(self) -> None:
        self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]

    def _after_member(self, closers: list[bytes]) -> None:
        if self._peek() == b",":
            self.at += 1
            self._space()
            self._member(closers)
        elif self._peek() == b"}":
            self.at += 1
            closers.pop()
        else:
            raise _Fault(
                "Missing a comma or } after an object member.", self.at
            )

    def _after_element(self, closers: list[bytes]) -> None:
        if self._peek() == b",":
            self.at += 1
            self._space()
            self._value(closers)
        elif self._peek() == b"]":
            self.at += 1
            closers.pop()
        else:
            raise _Fault(
                "Missing a comma or ] after an array element.", self.at
            )

    def _member(self, closers: list[bytes]) -> None:
        self._name()
        self._value(closers)

    def _name(self) -> None:
        if self._peek() != b'"':
            raise _Fault("Missing a name for object member.", self.at)
        self._string()
        self._space()
        if self._peek() != b":":
            raise _Fault(
                "Missing a colon after a name of object member.", self.at
            )
        self.at += 1
        self._space()

    def _value(self, closers: list[bytes]) -> None:
        """Walks to the end of a scalar, opening what it is inside of."""
        while self._peek() in (b"{", b"["):
            closer = b"}" if self._peek() == b"{" else b"]"
            self.at += 1
            self._space()
            if self._peek() == closer:
                self.at += 1
                return
            closers.append(closer)
            if closer == b"}":
                self._name()
        first = self._peek()
        if first == b'"':
            self._string()
        elif first in (b"t", b"f", b"n"):
            self._word()
        else:
            self._number()

    def _word(self) -> None:
        start = self.at
        for word in _WORDS:
            if self.text.startswith(word, start):
                self.at += len(word)
                return
        word = next(w for w in _WORDS if w[:1] == self._peek())
        while (
            self.text[self.at : self.at + 1]
            == (word[self.at - start : self.at - start + 1])
        ):
            self.at += 1
        raise _Fault("Invalid value.", self.at)

    def _number(self) -> None:
        special = _SPECIAL.match(self.text, self.at)
        if special:
            self.at = special.end()
            return
        match = _NUMBER.match(self.text, self.at)
        if not match:
            minus = self._peek() == b"-"
            raise _Fault("Invalid value.", self.at + minus)
        self.at = match.end()
        if self._peek() == b".":
            self.at += 1
            if not self._digits():
                raise _Fault("Miss fraction part in number.", self.at)
        if self._peek() in (b"e", b"E"):
            self.at += 1
            if self._peek() in (b"+", b"-"):
                self.at += 1
            if not self._digits():
                raise _Fault("Miss exponent in number.", self.at)

    def _digits(self) -> int:
        start = self.at
        while self._peek().isdigit():
            self.at += 1
        return self.at - start

    def _string(self) -> None:
        start = self.at
        self.at += 1
        while True:
            char = self._peek()
            if char == b"":
                raise _Fault(
                    "Missing a closing quotation mark in string.", start
                )
            if char == b'"':
                self.at += 1
                return
            if char == b"\\":
                self._escape()
            elif char < b" ":
                raise _Fault("Invalid encoding in string.", self.at)
            else:
                self.at += 1

    def _escape(self) -> None:
        start = self.at
        follower = self.text[start + 1 : start + 2]
        if follower == b"u":
            digits = self.text[start + 2 : start + 6]
            if not re.fullmatch(rb"[0-9a-fA-F]{4}", digits):
                raise _Fault(
                    "Incorrect hex digit after \\u escape in string.", start
                )
            self.at += 6
        elif follower and follower in _ESCAPES:
            self.at += 2
        else:
            raise _Fault("Invalid escape character in string.", start)
