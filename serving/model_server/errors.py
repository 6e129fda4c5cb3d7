"""Errors of the server and their form in each protocol.

A `ServingError` has a canonical status code and the text of TensorFlow Serving.
gRPC sends both unchanged; REST maps the code to an HTTP status.
"""

from __future__ import annotations

import functools
from typing import Any

import grpc

from serving.wire.statuses import HTTP_STATUS

_CODES: dict[int, grpc.StatusCode] = {
    code.value[0]: code for code in grpc.StatusCode
}

_MESSAGE_LIMIT = 1024


class ServingError(Exception):
    """A request or model failed, with a canonical status code."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


invalid_argument = functools.partial(
    ServingError, grpc.StatusCode.INVALID_ARGUMENT
)
not_found = functools.partial(ServingError, grpc.StatusCode.NOT_FOUND)
failed_precondition = functools.partial(
    ServingError, grpc.StatusCode.FAILED_PRECONDITION
)
unimplemented = functools.partial(ServingError, grpc.StatusCode.UNIMPLEMENTED)


def from_tensorflow(error: Any) -> ServingError:
    """Converts a `tf.errors.OpError`, whose codes are those of gRPC."""
    code = _CODES.get(error.error_code, grpc.StatusCode.UNKNOWN)
    return ServingError(code, error.message)


def http_status(code: grpc.StatusCode) -> int:
    """Returns the HTTP status for a canonical code."""
    return HTTP_STATUS.get(code.name, 500)


def truncated(message: str) -> str:
    """Truncates a text to fit a gRPC trailer, as TensorFlow Serving does."""
    if len(message) <= _MESSAGE_LIMIT:
        return message
    return message[:_MESSAGE_LIMIT] + "...TRUNCATED"
