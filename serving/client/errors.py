"""All errors that a client may raise.

MuseClientError
├── RequestError            a field of the request is wrong (a ValueError)
├── ClientClosedError       the client was closed
├── ResponseError           the answer cannot be parsed
└── CallError               the call failed; has `code`
    ├── UnavailableError    there is no server, or it is stopping
    ├── DeadlineError       there was no answer in time
    ├── InvalidArgumentError    the server rejected the request
    ├── NotFoundError       there is no such model or version
    ├── SignatureError      there is no such signature
    ├── AuthenticationError the caller is unknown or not authorized
    └── OverloadedError     the server is overloaded
"""

from __future__ import annotations

from typing import Any

import numpy as np

_SHOWN = 80


class MuseClientError(Exception):
    """Base class of all errors of this package."""


class RequestError(MuseClientError, ValueError):
    """A field of a request has a wrong value.

    Args:
        field: name of the field.
        expected: the requirement, as the end of "`field` must ...".
        received: the value.
    """

    def __init__(self, field: str, expected: str, received: Any) -> None:
        # NumPy 2 shows the types of scalars, which the caller did not enter.
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
    """The client was closed before the call."""


class ResponseError(MuseClientError):
    """The answer cannot be parsed."""


class CallError(MuseClientError):
    """A call failed.

    Attributes:
        code: canonical status code, for example `NOT_FOUND`.
        message: the server's text, or the transport's.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class UnavailableError(CallError):
    """There is no server at the address, or it is stopping."""


class DeadlineError(CallError):
    """There was no answer in time."""


class InvalidArgumentError(CallError):
    """The server rejected the request."""


class NotFoundError(CallError):
    """The server has no such model or version."""


class SignatureError(CallError):
    """The model has no such signature."""


class AuthenticationError(CallError):
    """The caller is unknown or not authorized."""


class OverloadedError(CallError):
    """The server is overloaded."""


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
    """Returns the error for a canonical status code."""
    return _CLASSES.get(code, CallError)(code, message)
