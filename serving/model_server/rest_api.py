"""The REST interface: predict, status and metadata."""

from __future__ import annotations

import asyncio
import logging
import re
import urllib.parse
import zlib
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from serving.model_server.config import ServerConfig
from serving.model_server.config_files import Monitoring
from serving.model_server.dispatch import Dispatcher
from serving.model_server.errors import (
    ServingError,
    http_status,
    invalid_argument,
)
from serving.model_server.json_bodies import (
    error_json,
    outputs_json,
    predictions_json,
    read_predict_body,
)
from serving.model_server.metrics import Metrics
from serving.model_server.model_manager import ModelManager
from serving.model_server.replies import (
    message_json,
    metadata_json,
    metadata_reply,
    status_reply,
)
from serving.model_server.servable import Servable
from serving.model_server.signatures import DEFAULT_SIGNATURE, run_signature

_logger = logging.getLogger(__name__)

_SPEC = r"(?:(?:/versions/(?P<version>\d+))|(?:/labels/(?P<label>[^/:]+)))?"
_RUN = re.compile(r"(?i)/v1/models/(?P<model>[^/:]+)" + _SPEC + r":predict\Z")
_SHOW = re.compile(
    r"(?i)/v1/models(?:/(?P<model>[^/:]+))?"
    + _SPEC
    + r"(?:/(?P<metadata>metadata))?\Z"
)
_MAX_VERSION = 2**63 - 1


class _RestApi:
    """The handlers of a server's models."""

    def __init__(
        self,
        config: ServerConfig,
        manager: ModelManager,
        dispatcher: Dispatcher,
    ) -> None:
        self._manager = manager
        self._dispatcher = dispatcher
        # 0 means no limit for both.
        self._timeout = config.rest_api_timeout_in_ms / 1000 or None
        self._max_bytes = config.max_request_bytes

    async def handle(self, request: web.Request) -> web.Response:
        """Answers one request; errors become responses."""
        path = request.rel_url.raw_path
        if not path.lower().startswith("/v1/"):
            return web.Response(status=404, text="Not Found\n")
        try:
            body = await self._answer(request, path)
        except ServingError as error:
            return _json(error_json(error.message), http_status(error.code))
        except _BodyError as error:
            if error.status == 413:
                self._dispatcher.count_refused()
            return _json(error_json(str(error)), error.status, close=True)
        except web.HTTPException:
            raise
        except Exception:
            _logger.exception("Answering %s %s failed", request.method, path)
            return _json(error_json("Internal error, see the log"), 500)
        return _json(body, 200)

    async def _answer(self, request: web.Request, path: str) -> bytes:
        run = _RUN.match(path) if request.method == "POST" else None
        if run:
            model, version, label = _target(run)
            body = await self._body(request)

            def work(timeout_ms: int | None) -> bytes:
                lease = self._manager.lease(model, version, label)
                with lease as servable:
                    return _predict(servable, body, timeout_ms)

            return await self._dispatcher.run(
                "predict", model, work, self._timeout
            )
        show = _SHOW.match(path) if request.method == "GET" else None
        if not show:
            raise invalid_argument(
                f"Malformed request: {request.method} {path}"
            )
        if not show["model"]:
            raise invalid_argument("Missing model name in request.")
        model, version, label = _target(show)
        if show["metadata"]:
            return metadata_json(
                metadata_reply(self._manager, model, version, label)
            )
        # The label is ignored.
        return message_json(status_reply(self._manager, model, version))

    async def _body(self, request: web.Request) -> bytes:
        limit = self._max_bytes
        if limit and (request.content_length or 0) > limit:
            raise _too_large(limit)
        try:
            body = await asyncio.wait_for(request.read(), self._timeout)
        except web.HTTPRequestEntityTooLarge:
            raise _too_large(limit) from None
        except asyncio.TimeoutError:
            raise _BodyError(
                408, f"Request body did not come within {self._timeout:g} s"
            ) from None
        except web.RequestPayloadError as error:
            raise _BodyError(400, f"Request body is broken: {error}") from None
        encoding = request.headers.get("Content-Encoding", "identity").lower()
        if encoding == "identity":
            return body
        if encoding != "gzip":
            raise _BodyError(
                415, f"Content-Encoding {encoding} is not supported, only gzip"
            )
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, _unzipped, body, limit)


class _BodyError(Exception):
    """A body that cannot be read. The connection is closed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _too_large(limit: int) -> _BodyError:
    return _BodyError(
        413,
        f"Request body is larger than {limit} bytes, the limit of this "
        f"server (--max_request_bytes)",
    )


def _unzipped(body: bytes, limit: int) -> bytes:
    """Decompresses a gzip body, up to the limit."""
    reader = zlib.decompressobj(wbits=31)
    try:
        content = reader.decompress(body, limit + 1 if limit else 0)
    except zlib.error as error:
        raise _BodyError(400, f"Request body is not gzip: {error}") from None
    if limit and len(content) > limit:
        raise _too_large(limit)
    if not reader.eof:
        raise _BodyError(400, "Request body is not gzip: it ends early")
    return content


def make_rest_app(
    config: ServerConfig,
    manager: ModelManager,
    dispatcher: Dispatcher,
    metrics: Metrics,
    monitoring: Monitoring,
) -> web.Application:
    """Returns the HTTP application."""
    app = web.Application(client_max_size=config.max_request_bytes or 2**63)
    if monitoring.enabled:

        async def page(_: web.Request) -> web.Response:
            return web.Response(text=metrics.page(), content_type="text/plain")

        app.router.add_get(monitoring.path, page)
    api = _RestApi(config, manager, dispatcher)
    app.router.add_route("*", "/{path:.*}", api.handle)
    return app


def _predict(servable: Servable, body: bytes, timeout_ms: int | None) -> bytes:
    def inputs_of(name: str) -> Mapping[str, Any]:
        name = name or DEFAULT_SIGNATURE
        if name not in servable.signatures:
            raise invalid_argument(
                f'Serving signature name: "{name}" not found in signature def'
            )
        return servable.signatures[name].inputs

    parsed = read_predict_body(body, inputs_of)
    outputs = run_signature(
        servable, parsed.signature_name, parsed.inputs, timeout_ms=timeout_ms
    )
    return (
        predictions_json(outputs) if parsed.row_form else outputs_json(outputs)
    )


def _target(match: re.Match[str]) -> tuple[str, int | None, str | None]:
    version = label = None
    if match["version"]:
        version = int(match["version"])
        if version > _MAX_VERSION:
            raise invalid_argument(
                f"Failed to convert version: {match['version']} to numeric."
            )
    if match["label"]:
        label = urllib.parse.unquote(match["label"])
    return urllib.parse.unquote(match["model"]), version, label


def _json(body: bytes, status: int, close: bool = False) -> web.Response:
    response = web.Response(
        body=body, status=status, content_type="application/json"
    )
    if close:
        response.force_close()
    return response
