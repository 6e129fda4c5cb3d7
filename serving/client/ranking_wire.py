"""Converts requests and answers of the ranking service to messages and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.client.errors import RequestError, ResponseError
from serving.client.feature_values import objects
from serving.client.ranking_types import (
    AppendEvents,
    RankingRequest,
    RankingResult,
    Stage,
)
from serving.wire import ranking_messages as wire

_PLAIN = ("num_candidates", "deadline_ms", "request_id", "sort", "top")
_SAME = (
    *("path", "history_length", "generation", "cache_hit", "total_ms"),
    *("request_id", "candidates_from"),
)
"""Fields that `RankingResult` and its message have in common."""


def write_request(request: RankingRequest) -> Any:
    """Converts a request to a message."""
    candidates = request.candidate_item_ids
    return wire.RankRequest(
        **_keys("user_id", "user_key", request.user_id),
        **_keys("candidate_item_ids", "candidate_item_keys", candidates),
        **{name: getattr(request, name) for name in _PLAIN},
        user=_write_features("user", request.user),
        context=_write_features("context", request.context),
        candidates=_write_features("candidates", request.candidates, True),
    )


def read_request(message: Any, deadline_ms: float) -> RankingRequest:
    """Reads a request and replaces its deadline; may raise `RequestError`."""
    candidates = message.candidate_item_keys or message.candidate_item_ids
    plain = {name: getattr(message, name) for name in _PLAIN}
    return RankingRequest(
        user_id=message.user_key or message.user_id,
        candidate_item_ids=list(candidates) or None,
        user=_read_features("user", message.user),
        context=_read_features("context", message.context),
        candidates=_read_features("candidates", message.candidates, True),
        **{**plain, "deadline_ms": deadline_ms},
    )


def write_events(events: AppendEvents) -> Any:
    """Converts behaviors to a message."""
    times = None if events.times is None else list(map(int, events.times))
    return wire.AppendEventsRequest(
        **_keys("user_id", "user_key", events.user_id),
        **_keys("item_ids", "item_keys", events.item_ids),
        behaviors=_write_features("behaviors", events.behaviors, True),
        user=_write_features("user", events.user),
        times=times,
    )


def read_events(message: Any) -> AppendEvents:
    """Reads behaviors; may raise `RequestError`."""
    return AppendEvents(
        user_id=message.user_key or message.user_id,
        item_ids=list(message.item_keys or message.item_ids),
        behaviors=_read_features("behaviors", message.behaviors, True),
        user=_read_features("user", message.user),
        times=list(message.times) or None,
    )


def write_rank(result: RankingResult) -> Any:
    """Converts an answer to a message."""
    ids = result.candidate_item_ids
    return wire.RankResponse(
        **_keys("candidate_item_ids", "candidate_item_keys", ids),
        click_probability=result.click_probability.tolist(),
        probabilities={
            label: wire.Probabilities(values=values.tolist())
            for label, values in result.probabilities.items()
        },
        stages=[
            wire.Stage(**dataclasses.asdict(stage)) for stage in result.stages
        ],
        **{name: getattr(result, name) for name in _SAME},
    )


def read_rank(message: Any) -> RankingResult:
    """Reads an answer; raises `ResponseError` if its parts do not match."""
    keys = list(message.candidate_item_keys)
    numbers = np.array(message.candidate_item_ids, np.int64)
    ids = objects(keys) if keys else numbers
    scores = np.array(message.click_probability, np.float32)
    probabilities = {
        label: np.array(found.values, np.float32)
        for label, found in message.probabilities.items()
    }
    if message.path != "unranked":
        for values in (scores, *probabilities.values()):
            if len(ids) != len(values):
                raise ResponseError(
                    f"{len(values)} scores do not fit {len(ids)} candidates"
                )
    return RankingResult(
        candidate_item_ids=ids,
        click_probability=scores,
        probabilities=probabilities,
        stages=tuple(
            Stage(s.name, s.start_ms, s.duration_ms, s.outcome)
            for s in message.stages
        ),
        **{name: getattr(message, name) for name in _SAME},
    )


def _keys(numbers: str, texts: str, ids: Any) -> dict[str, Any]:
    """Returns ids in the field for numbers or in that for texts."""
    if ids is None:
        return {}
    is_text = isinstance(ids, str) or np.ndim(ids) and ids.dtype == object
    given = ids.tolist() if isinstance(ids, np.ndarray) else ids
    return {texts if is_text else numbers: given}


def _write_features(
    field: str, features: Mapping[str, Any], each: bool = False
) -> dict[str, Any]:
    return {
        name: write_values(
            f"{field}[{name!r}]", value if each else objects([value])
        )
        for name, value in features.items()
    }


def _read_features(
    field: str, features: Mapping[str, Any], each: bool = False
) -> dict[str, Any]:
    found = {}
    for name, message in features.items():
        values = read_values(f"{field}[{name!r}]", message)
        if not each and len(values) != 1:
            raise RequestError(
                f"{field}[{name!r}]", "be of one entity", f"{len(values)}"
            )
        found[name] = values if each else values[0]
    return found


def write_values(field: str, things: np.ndarray) -> Any:
    """Converts the values of several entities to a message."""
    if things.dtype == object or things.ndim > 1:
        lists = things.ndim > 1 or any(np.ndim(one) for one in things)
        parts = [
            [] if one is None else np.ravel(one).tolist() for one in things
        ]
        lengths = list(map(len, parts))
        flat = [value for part in parts for value in part]
    else:
        lists, lengths, flat = False, [], things.tolist()
    if not lists and all(length == 1 for length in lengths):
        lengths = []
    kinds = set(map(type, flat)) - {type(None)}
    if str in kinds and len(kinds) > 1:
        raise RequestError(field, "be all numbers or all texts", flat)
    name, missing = "ids", 0
    if str in kinds:
        name, missing = "texts", ""  # type: ignore[assignment]
    elif float in kinds:
        name, missing = "numbers", np.nan  # type: ignore[assignment]
    if None in flat:
        flat = [missing if value is None else value for value in flat]
    return wire.Values(lists=lists, lengths=lengths, **{name: flat})


def read_values(field: str, message: Any) -> Any:
    """Reads the values of several entities, one entry for each."""
    given: Sequence[Any] = message.ids or message.numbers or message.texts
    count = len(message.ids) + len(message.numbers) + len(message.texts)
    lengths = list(message.lengths) or [1] * count
    fits = count == len(given) == sum(lengths)
    if not fits or min(lengths, default=0) < 0:
        raise RequestError(
            field,
            "have as many ids, numbers or texts as its lengths add up to",
            f"{count} for {lengths[:9]}",
        )
    if message.texts:
        flat = objects(list(given))
    else:
        flat = np.array(given, np.float32 if message.numbers else np.int64)
    if not lengths or not (message.lists or message.lengths):
        return flat
    if message.lists and len(set(lengths)) == 1 and not message.texts:
        return flat.reshape(len(lengths), lengths[0])
    parts = np.split(flat, np.cumsum(lengths)[:-1])
    if message.lists:
        return parts
    if max(lengths) > 1:
        raise RequestError(field, "set `lists` for several values", lengths)
    return [part[0] if len(part) else None for part in parts]
