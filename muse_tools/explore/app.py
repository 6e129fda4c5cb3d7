"""The explorer's HTTP interface: one page and a JSON API."""

from __future__ import annotations

import asyncio
import importlib.resources
import logging
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from muse_tools.explore.explorer import Explorer, NotKnown
from serving.addresses import bare_host, join_address
from serving.files import dumps
from serving.startup import listen_rest, stop_signal

_logger = logging.getLogger(__name__)

PAGE = "page.html"
_HEADERS = {
    # The page contains everything and must not load anything from elsewhere.
    "Content-Security-Policy": (
        "default-src 'none'; connect-src 'self'; img-src data:; "
        "script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ExplorerApp:
    """Serves an explorer on a port; 0 selects a free one."""

    def __init__(
        self, explorer: Explorer, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._explorer = explorer
        self._host = bare_host(host)
        self.port = port
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{join_address(self._host, self.port)}/"

    async def start(self) -> None:
        """Opens the port.

        Raises:
            OSError: if the port is in use.
        """
        app = web.Application(middlewares=[self._answer_errors])
        explorer = self._explorer
        app.add_routes(
            [
                web.get("/", self._page),
                _api("/api/about", lambda request: explorer.about()),
                _api("/api/users", lambda r: explorer.users(_query(r))),
                _api(
                    "/api/users/{user_id}",
                    lambda r: explorer.user(
                        _id("user_id", r.match_info["user_id"])
                    ),
                ),
                _api("/api/items", lambda r: explorer.items(_query(r))),
                _api(
                    "/api/explain",
                    lambda r: explorer.explain(
                        _id("user", r.query.get("user")),
                        _id("item", r.query.get("item")),
                    ),
                ),
            ]
        )
        self._runner, self.port = await listen_rest(
            app, self._host, self.port, "--port", shutdown_timeout=2.0
        )

    async def stop(self) -> None:
        """Closes the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _page(self, request: web.Request) -> web.Response:
        page = importlib.resources.files(__package__).joinpath(PAGE)
        return web.Response(
            text=page.read_text(encoding="utf-8"), content_type="text/html"
        )

    @web.middleware
    async def _answer_errors(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        try:
            self._check_host(request)
            response = await handler(request)
        except NotKnown as error:
            response = _error(404, error.message, error.hint)
        except _BadRequest as error:
            response = _error(400, str(error), error.hint)
        except web.HTTPException as error:
            response = _error(
                error.status, f"{request.path}: {error.reason}", "open /"
            )
        except Exception:
            _logger.exception("Answering %s failed", request.path_qs)
            response = _error(500, "internal error", "see the log")
        response.headers.update(_HEADERS)
        return response

    def _check_host(self, request: web.Request) -> None:
        """Refuses requests with another host name (DNS rebinding)."""
        if self._host not in _LOOPBACK:
            return
        if request.url.host not in _LOOPBACK:
            raise _BadRequest(
                f"the host {request.url.host} is not this machine",
                f"open {self.url}",
            )


class _BadRequest(ValueError):
    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def _id(name: str, text: str | None) -> int:
    try:
        value = int(text or "")
        if not -(1 << 63) <= value < 1 << 63:
            raise ValueError
    except ValueError as error:
        raise _BadRequest(
            f"{name} must be a whole number of 64 bits. Received: {text!r}",
            "for example /api/explain?user=1&item=2",
        ) from error
    return value


def _query(request: web.Request) -> str:
    return request.query.get("q", "").strip()


def _api(path: str, call: Callable[[web.Request], Any]) -> web.RouteDef:
    """Returns a route whose answer `call` makes, outside the event loop."""

    async def answer(request: web.Request) -> web.Response:
        value = await asyncio.to_thread(call, request)
        return web.json_response(value, dumps=dumps)

    return web.get(path, answer)


def _error(status: int, message: str, hint: str) -> web.Response:
    return web.json_response(
        {"error": message, "hint": hint}, status=status, dumps=dumps
    )


def serve_until_signal(
    app: ExplorerApp, on_ready: Callable[[ExplorerApp], None]
) -> None:
    """Serves until SIGINT or SIGTERM."""

    async def run() -> None:
        stopped = stop_signal()
        await app.start()
        try:
            on_ready(app)
            await stopped.wait()
        finally:
            await app.stop()

    asyncio.run(run())
