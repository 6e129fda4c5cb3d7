"""Features of a request: from the store, from times, and declared ones.

A store may have more features than the served model, because it is filled
before a version that uses them is served.
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
"""Fields of a request that hold features by name."""


def now() -> int:
    """Returns the current time of the service's clock in seconds."""
    return int(time.time())


class Declared:
    """The declaration of the data, once it is known.

    Attributes:
        declaration: converts text keys to ids in the service.
        of_model: converts texts to ids in clients of the model. It has no
            declaration until one is known to be the model's.
    """

    def __init__(self) -> None:
        self.declaration = Declaration()
        self.of_model = Declaration()

    def learn(self, schema: RankingSchema | None, fits: bool) -> None:
        """Sets the declaration; `fits` if it also matches the model."""
        for one, known in (
            (self.declaration, schema),
            (self.of_model, schema if fits else None),
        ):
            if known is not one.schema:
                one.learn(known)

    def has_texts(self, key: Literal["user", "item"]) -> bool:
        """Whether the keys of users, or of items, are texts."""
        schema = self.declaration.schema
        return schema is not None and getattr(schema, key).type == "string"

    def context(self, second: int) -> dict[str, int]:
        """Returns the request features that are computed from the clock."""
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

        Times of behaviors are converted to the seconds until `second`, or
        until the start of its day if histories end there.
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
    """Sends a request without features that the served version rejects.

    The client rejects such a feature before sending. Features in `needed`,
    names by field of the request, are not removed.
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
    """Returns field and name of the rejected feature, or empty texts."""
    if error.field in (*FIELDS, "behaviors"):
        return error.field, str(error.received)
    found = _ONE_FEATURE.fullmatch(error.field)
    return (found[1], found[2]) if found else ("", "")
