"""The REST interface of the ranking service, with health and metrics."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from serving.client.errors import RequestError
from serving.client.ranking import RankingRequest, RankingResult
from serving.ranking_service.config import MAX_REQUEST_BYTES
from serving.ranking_service.failures import (
    PATH_HEADER,
    UnrankedError,
    failure_of,
)
from serving.ranking_service.service import RankingService

_RANK_FIELDS = {field.name for field in dataclasses.fields(RankingRequest)}
_EVENT_FIELDS = {"user_id", "item_ids", "behaviors", "user", "times"}
_CODES = {
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    413: "RESOURCE_EXHAUSTED",
    415: "INVALID_ARGUMENT",
}


def make_rest_app(service: RankingService) -> web.Application:
    """Returns the HTTP application."""

    async def rank(request: web.Request) -> web.Response:
        fields = await _fields(request, {*_RANK_FIELDS, "ids_as"}, {"user_id"})
        shown = fields.pop("ids_as", "number")
        if shown not in ("number", "string"):
            raise RequestError("ids_as", "be 'number' or 'string'", shown)
        asked = RankingRequest(**fields)
        result = await service.rank(asked)
        headers = {PATH_HEADER: result.path}
        if service.refuses(result):
            return failed(UnrankedError(), headers)
        is_text = service.declared.has_texts("user")
        answer = _as_json(asked, result, shown, is_text)
        return _json(answer, headers=headers)

    async def append(request: web.Request) -> web.Response:
        fields = await _fields(request, _EVENT_FIELDS, {"user_id", "item_ids"})
        count = await service.append_events(**fields)
        return _json({"appended": count})

    async def alive(_: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def ready(_: web.Request) -> web.Response:
        if service.ready:
            return _json({"status": "ready"})
        problem = service.problem
        more = {"problem": problem} if problem else {}
        return _json({"status": "not ready", **more}, 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            text=service.metrics_page(),
            headers={"Content-Type": "text/plain; version=0.0.4"},
        )

    def failed(
        error: Exception, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        failure = failure_of(error)
        service.count_failure(failure)
        headers = dict(headers or {})
        if failure.retry_after:
            headers["Retry-After"] = str(failure.retry_after)
        return _json({"error": failure.text}, failure.status, headers)

    @web.middleware
    async def errors(
        request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        try:
            response = await handler(request)
            return response
        except web.HTTPException as error:
            code = _CODES.get(error.status, "UNKNOWN")
            service.metrics.failed.labels(code).inc()
            return _json({"error": error.reason}, error.status)
        except Exception as error:
            return failed(error)

    app = web.Application(
        client_max_size=MAX_REQUEST_BYTES, middlewares=[errors]
    )
    app.router.add_post("/v1/rank", rank)
    app.router.add_post("/v1/events", append)
    app.router.add_get("/healthz", alive)
    app.router.add_get("/readyz", ready)
    app.router.add_get("/metrics", metrics)
    return app


async def _fields(
    request: web.Request, allowed: set[str], needed: set[str]
) -> dict[str, Any]:
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise web.HTTPUnsupportedMediaType(
            reason="Content-Encoding is not supported"
        )
    try:
        fields = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise RequestError("body", "be JSON", str(error)) from error
    if not isinstance(fields, dict):
        raise RequestError("body", "be a JSON object", fields)
    unknown = sorted(set(fields) - allowed)
    if unknown:
        raise RequestError(
            "body", f"hold only {', '.join(sorted(allowed))}", unknown[0]
        )
    missing = sorted(needed - set(fields))
    if missing:
        raise RequestError("body", f"hold {missing[0]}", sorted(fields))
    for name in ("candidate_item_ids", "item_ids"):
        # JavaScript can only write large numbers as texts.
        ids = fields.get(name)
        if isinstance(ids, list) and set(map(type, ids)) == {int, str}:
            fields[name] = list(map(str, ids))
    return fields


def _as_json(
    asked: RankingRequest, result: RankingResult, shown: str, is_text: bool
) -> dict[str, Any]:
    user_id: Any = asked.user_id if is_text else int(asked.user_id)
    item_ids: list[Any] = result.candidate_item_ids.tolist()
    if shown == "string":
        user_id, item_ids = str(user_id), [str(item) for item in item_ids]
    return {
        "user_id": user_id,
        **vars(result),
        "candidate_item_ids": item_ids,
        "click_probability": result.click_probability.tolist(),
        "probabilities": {
            label: values.tolist()
            for label, values in result.probabilities.items()
        },
        "stages": [dataclasses.asdict(stage) for stage in result.stages],
    }


def _json(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.json_response(value, status=status, headers=headers)
