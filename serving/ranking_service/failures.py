"""Converts errors of the service to gRPC and REST responses."""

from __future__ import annotations

import asyncio
import dataclasses
import logging

from serving.client.errors import RequestError
from serving.ranking_service.admission import Overloaded
from serving.stores import StoreError
from serving.wire.ranking_messages import UNRANKED

_logger = logging.getLogger(__name__)

PATH_HEADER = "x-muse-path"
"""Header, or trailing metadata, with the path of the answer."""


class UnrankedError(RuntimeError):
    """There are no scores, and the service is configured to fail then."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """The response to an error: gRPC code, HTTP status and message."""

    code: str
    status: int
    text: str
    retry_after: int = 0  # Seconds; 0 sends no header.
    counted: bool = False  # Whether another metric counts it.


def failure_of(error: Exception) -> Failure:
    """Returns the response to an error; logs errors of the service itself."""
    if isinstance(error, Overloaded):
        draining = error.reason == "draining"
        code = "UNAVAILABLE" if draining else "RESOURCE_EXHAUSTED"
        return Failure(code, 503, str(error), error.retry_after, True)
    if isinstance(error, UnrankedError):
        return Failure("UNAVAILABLE", 503, UNRANKED, 1)
    if isinstance(error, (RequestError, ValueError)):
        return Failure("INVALID_ARGUMENT", 400, str(error))
    if isinstance(error, StoreError):
        _logger.warning("Appending failed: %s", error)
        return Failure("UNAVAILABLE", 503, "the behavior store failed", 1)
    if isinstance(error, asyncio.TimeoutError):
        text = "the behavior store took too long"
        return Failure("DEADLINE_EXCEEDED", 504, text)
    _logger.error("A request failed", exc_info=error)
    return Failure("INTERNAL", 500, "internal error")
