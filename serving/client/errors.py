"""Everything that a client may raise.

MuseClientError
├── RequestError            a field of the request is wrong (a ValueError)
├── ClientClosedError       the client was closed
├── ResponseError           the answer cannot be understood
└── CallError               the call failed; has `code`
    ├── UnavailableError    no server, or it is stopping
    ├── DeadlineError       no answer in time
    ├── InvalidArgumentError    the server refused the request
    ├── NotFoundError       no such model or version
    ├── SignatureError      no such signature
    ├── AuthenticationError not known, or not allowed
    └── OverloadedError     the server has too much to do
"""

from __future__ import annotations

from typing import Any

import numpy as np

_SHOWN = 80


class MuseClientError(Exception):
    """Base of all errors of this package."""


class RequestError(MuseClientError, ValueError):
    """A field of a request is not as it must be.

    Args:
        field: name of the field.
        expected: what it must be, as the end of "`field` must ...".
        received: what it was.
    """

    def __init__(self, field: str, expected: str, received: Any) -> None:
        # NumPy 2 shows the types of scalars, which the caller did not write.
        if isinstance(received, np.generic):
            received = received.item()
        shown = repr(received)
        if len(shown) > _SHOWN:
            shown = shown[:_SHOWN] + "…"
        super().__init__(f"`{field}` must {expected}. Received: {shown}")
        self.field = field
        self.expected = expected
        self.received = received


class ClientClosedError(MuseClientError):
    """A call by a client that was closed before."""


class ResponseError(MuseClientError):
    """The answer cannot be understood."""


class CallError(MuseClientError):
    """A call failed.

    Attributes:
        code: canonical status code, `"NOT_FOUND"`.
        message: the server's text, or the transport's.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class UnavailableError(CallError):
    """No server answers there, or it is stopping."""


class DeadlineError(CallError):
    """No answer came in time."""


class InvalidArgumentError(CallError):
    """The server refused the request."""


class NotFoundError(CallError):
    """The server has no such model or version."""


class SignatureError(CallError):
    """The model has no such signature."""


class AuthenticationError(CallError):
    """The caller is not known, or not allowed."""


class OverloadedError(CallError):
    """The server has too much to do."""


_CLASSES = {
    "UNAVAILABLE": UnavailableError,
    "DEADLINE_EXCEEDED": DeadlineError,
    "INVALID_ARGUMENT": InvalidArgumentError,
    "NOT_FOUND": NotFoundError,
    "FAILED_PRECONDITION": SignatureError,
    "UNAUTHENTICATED": AuthenticationError,
    "PERMISSION_DENIED": AuthenticationError,
    "RESOURCE_EXHAUSTED": OverloadedError,
}


def call_error(code: str, message: str) -> CallError:
    """Returns the error of a canonical status code."""
    return _CLASSES.get(code, CallError)(code, message)
