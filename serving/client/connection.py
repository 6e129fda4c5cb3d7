"""What both clients are made of: settings, and how they show themselves."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping

from serving.client.attempts import Attempts, Budget
from serving.client.batches import Limits
from serving.client.errors import ClientClosedError
from serving.client.settings import Retry, Timeouts
from serving.client.wire_grpc import Target

__all__ = ["ClientBase"]


class ClientBase:
    """Settings of a client.

    Args:
        target: where the server is.
        model: what to ask.
        timeouts: limits in seconds.
        retry: further attempts when the server is unavailable.
        metadata: what is sent with every call; only the names are kept.
        limits: how many requests share a call.
    """

    def __init__(
        self,
        target: str,
        model: Target,
        timeouts: Timeouts | None,
        retry: Retry | None,
        metadata: Mapping[str, str] | None,
        limits: Limits | None,
    ) -> None:
        """Keeps the settings; see the class for the arguments."""
        self._address = target
        self._model = model
        self._timeouts = timeouts or Timeouts()
        self._retry = retry or Retry()
        self._limits = limits or Limits()
        self._metadata_names = sorted(metadata or {})
        self._closed = False

    def __repr__(self) -> str:
        """Target and model; metadata by name only."""
        parts = [repr(_without_password(self._address))]
        parts.append(f"model={self._model.model!r}")
        if self._model.version is not None:
            parts.append(f"version={self._model.version}")
        if self._model.label is not None:
            parts.append(f"label={self._model.label!r}")
        if self._metadata_names:
            hidden = ", ".join(f"{n!r}: '***'" for n in self._metadata_names)
            parts.append(f"metadata={{{hidden}}}")
        if self._closed:
            parts.append("closed")
        return f"{type(self).__name__}({', '.join(parts)})"

    def _attempts(self, budget: Budget) -> Attempts:
        return budget.attempts(self._timeouts, self._retry)

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosedError("the client is closed")


def _without_password(target: str) -> str:
    if "://" not in target:
        return target
    parts = urllib.parse.urlsplit(target)
    if parts.password is None and parts.username is None:
        return target
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit(parts._replace(netloc=f"***@{host}"))
