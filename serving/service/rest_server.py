"""The ranking service by REST: ranking, events, health and metrics."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from typing import Any

from aiohttp import web

from serving.client.errors import RequestError
from serving.client.ranking import RankingRequest, RankingResult
from serving.service.admission import Overloaded
from serving.service.service import RankingService
from serving.stores import StoreError

__all__ = ["make_rest_app"]

_logger = logging.getLogger(__name__)

_MAX_REQUEST_BYTES = 4 * 1024 * 1024
_RANK_FIELDS = {field.name for field in dataclasses.fields(RankingRequest)}
_EVENT_FIELDS = {"user_id", "item_ids", "category_ids"}


def make_rest_app(service: RankingService) -> web.Application:
    """Makes the application.

    Args:
        service: what answers.
    """

    async def rank(request: web.Request) -> web.Response:
        fields = await _fields(request, _RANK_FIELDS, {"user_id"})
        return _json(_as_json(await service.rank(RankingRequest(**fields))))

    async def append(request: web.Request) -> web.Response:
        fields = await _fields(request, _EVENT_FIELDS, _EVENT_FIELDS)
        user_id = RankingRequest(fields["user_id"]).user_id
        count = await service.append_events(
            user_id, fields["item_ids"], fields["category_ids"]
        )
        return _json({"appended": count})

    async def alive(_: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def ready(_: web.Request) -> web.Response:
        if service.ready:
            return _json({"status": "ready"})
        return _json({"status": "not ready"}, 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            text=service.metrics_page(),
            headers={"Content-Type": "text/plain; version=0.0.4"},
        )

    async def latencies(_: web.Request) -> web.Response:
        return _json(service.latencies.table())

    app = web.Application(
        client_max_size=_MAX_REQUEST_BYTES, middlewares=[_errors]
    )
    app.router.add_post("/v1/rank", rank)
    app.router.add_post("/v1/events", append)
    app.router.add_get("/healthz", alive)
    app.router.add_get("/readyz", ready)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/latencies", latencies)
    return app


@web.middleware
async def _errors(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
        return response
    except Overloaded as error:
        return _error(503, str(error), {"Retry-After": str(error.retry_after)})
    except (RequestError, ValueError) as error:
        return _error(400, str(error))
    except StoreError as error:
        _logger.warning("Appending failed: %s", error)
        return _error(503, "the behavior store failed", {"Retry-After": "1"})
    except asyncio.TimeoutError:
        return _error(504, "the behavior store took too long")
    except web.HTTPException as error:
        return _error(error.status, error.reason)
    except Exception:
        _logger.exception("A request failed")
        return _error(500, "internal error")


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
    return fields


def _as_json(result: RankingResult) -> dict[str, Any]:
    return {
        "candidate_item_ids": result.candidate_item_ids.tolist(),
        "click_probability": result.click_probability.tolist(),
        "path": result.path,
        "history_length": result.history_length,
        "generation": result.generation,
        "cache_hit": result.cache_hit,
        "stages": [dataclasses.asdict(stage) for stage in result.stages],
        "total_ms": result.total_ms,
        "request_id": result.request_id,
        "candidates_from": result.candidates_from,
    }


def _json(value: Any, status: int = 200) -> web.Response:
    return web.json_response(value, status=status)


def _error(
    status: int, text: str, headers: dict[str, str] | None = None
) -> web.Response:
    return web.json_response({"error": text}, status=status, headers=headers)
