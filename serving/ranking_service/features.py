"""Requests to the model with the features that a served version declares.

A store may keep more features than a version of the model: it is filled before
the version that uses them is served.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from serving.client import PrefetchRequest, RankRequest
from serving.client.errors import RequestError
from serving.stores import UserHistory

_Request = TypeVar("_Request", RankRequest, PrefetchRequest)
_T = TypeVar("_T")
_NONE: Mapping[str, int] = {}


def request_fields(
    history: UserHistory, user: Mapping[str, int] = _NONE
) -> dict[str, Any]:
    """Returns a history as fields of `RankRequest` and `PrefetchRequest`.

    `user` counts before the features that the store has.
    """
    return {
        "behavior_item_ids": history.item_ids,
        "user": {**(history.user or {}), **user},
        "behaviors": history.behaviors,
    }


async def send_declared(
    call: Callable[[_Request], Awaitable[_T]],
    request: _Request,
    needed: Mapping[str, int] = _NONE,
) -> _T:
    """Sends a request without what the served version does not declare.

    The client refuses such a feature before the request is sent. The user
    features in `needed` are not left out.
    """
    while True:
        try:
            return await call(request)
        except RequestError as error:
            field, name = error.field, error.received
            if field not in ("user", "behaviors"):
                raise
            if field == "user" and name in needed:
                raise
            declared: Any = {field: dict(getattr(request, field))}
            del declared[field][name]
            request = dataclasses.replace(request, **declared)
