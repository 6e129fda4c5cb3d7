"""Features of requests: the store's, those made from times, and the model's.

A store may keep more features than a version of the model: it is filled before
the version that uses them is served.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import time
import zoneinfo
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from serving.client import CachedRankRequest, PrefetchRequest, RankRequest
from serving.client.declaration import Declaration
from serving.client.errors import RequestError
from serving.stores import UserHistory

if TYPE_CHECKING:
    from schemas.ranking_schema import RankingSchema

_Request = TypeVar("_Request", RankRequest, PrefetchRequest, CachedRankRequest)
_T = TypeVar("_T")
_ONE_FEATURE = re.compile(r"(\w+)\['(.+?)'\]")
FIELDS = ("user", "context", "candidates")
"""Fields of a request that have features by name."""


def now() -> int:
    """Returns the second of the service's clock."""
    return int(time.time())


class Declared:
    """What the declaration of the data says of requests, once it is known.

    Attributes:
        declaration: how the service makes ids of keys that are texts.
        of_model: how clients of the model make ids of texts; without a
            declaration as long as none is known to be the model's.
    """

    def __init__(self) -> None:
        self.declaration = Declaration()
        self.of_model = Declaration()

    def learn(self, schema: RankingSchema | None, fits: bool) -> None:
        """Takes the declaration; `fits` if it is that of the model, too."""
        for one, known in (
            (self.declaration, schema),
            (self.of_model, schema if fits else None),
        ):
            if known is not one.schema:
                one.learn(known)

    def has_texts(self, key: Literal["user", "item"]) -> bool:
        """Whether users, or items, have keys that are texts."""
        schema = self.declaration.schema
        return schema is not None and getattr(schema, key).type == "string"

    def context(self, second: int) -> dict[str, int]:
        """Returns features of requests that are made from the clock."""
        schema = self.declaration.schema
        if schema is None or schema.log is None:
            return {}
        moment = _moment(second, schema.log.timezone)
        values = {"hour": moment.hour + 1, "weekday": moment.weekday() + 1}
        return {
            name: values[feature.time]
            for name, feature in schema.features.context.items()
            if feature.time
        }

    def history_fields(
        self, history: UserHistory, second: int
    ) -> dict[str, Any]:
        """Returns a history as fields of `RankRequest` and `PrefetchRequest`.

        Times of behaviors become seconds up to `second`, or up to its day if
        histories end there.
        """
        behaviors: dict[str, np.ndarray] = dict(history.behaviors)
        schema = self.declaration.schema
        if schema and schema.log and history.times is not None:
            if schema.log.as_of == "day":
                moment = _moment(second, schema.log.timezone)
                day = moment.replace(hour=0, minute=0, second=0)
                second = int(day.timestamp())
            since = np.maximum(second - history.times, 0).astype(np.float32)
            behaviors |= {
                name: since
                for name, feature in schema.features.behavior.items()
                if feature.time
            }
        return {
            "behavior_item_ids": history.item_ids,
            "user": history.user or {},
            "behaviors": behaviors,
        }


def _moment(second: int, zone: str) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(second, zoneinfo.ZoneInfo(zone))


async def send_declared(
    call: Callable[[_Request], Awaitable[_T]],
    request: _Request,
    needed: Mapping[str, Collection[str]],
) -> _T:
    """Sends a request without what the served version does not take.

    The client refuses such a feature before the request is sent. Those in
    `needed`, names by field of the request, are not left out.
    """
    while True:
        try:
            return await call(request)
        except RequestError as error:
            field, name = feature_of(error)
            features = dict(getattr(request, field, {}) if field else {})
            if name not in features or name in needed.get(field, ()):
                raise
            del features[name]
            changed: Any = {field: features}
            request = dataclasses.replace(request, **changed)


def feature_of(error: RequestError) -> tuple[str, str]:
    """Returns field and name of the feature that is refused, or nothing."""
    if error.field in (*FIELDS, "behaviors"):
        return error.field, str(error.received)
    found = _ONE_FEATURE.fullmatch(error.field)
    return (found[1], found[2]) if found else ("", "")
