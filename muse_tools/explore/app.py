"""The explorer's HTTP interface: one page, and JSON behind it."""

from __future__ import annotations

import asyncio
import importlib.resources
import json
import logging
import signal
from collections.abc import Callable
from typing import Any

from aiohttp import web

from muse_tools.explore.explorer import Explorer, NotKnown

_logger = logging.getLogger(__name__)

PAGE = "page.html"
_HEADERS = {
    # All is in the page: nothing is to be fetched from anywhere else.
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
    """Serves an explorer on a port; 0 takes a free one."""

    def __init__(
        self, explorer: Explorer, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._explorer = explorer
        self._host = host
        self.port = port
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Address of the page."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}/"

    async def start(self) -> None:
        """Opens the port; OSError where it is taken."""
        app = web.Application(middlewares=[self._answer_errors])
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/api/about", self._about),
                web.get("/api/users", self._users),
                web.get("/api/users/{user_id}", self._user),
                web.get("/api/items", self._items),
                web.get("/api/explain", self._explain),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Closes the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _page(self, request: web.Request) -> web.Response:
        page = importlib.resources.files(__package__).joinpath(PAGE)
        return web.Response(
            text=page.read_text(encoding="utf-8"), content_type="text/html"
        )

    async def _about(self, request: web.Request) -> web.Response:
        return await _json(self._explorer.about)

    async def _users(self, request: web.Request) -> web.Response:
        query = request.query.get("q", "").strip()
        return await _json(self._explorer.users, query)

    async def _user(self, request: web.Request) -> web.Response:
        user = _id("user_id", request.match_info["user_id"])
        return await _json(self._explorer.user, user)

    async def _items(self, request: web.Request) -> web.Response:
        query = request.query.get("q", "").strip()
        return await _json(self._explorer.items, query)

    async def _explain(self, request: web.Request) -> web.Response:
        wanted = [
            _id(name, request.query.get(name)) for name in ("user", "item")
        ]
        return await _json(self._explorer.explain, *wanted)

    @web.middleware
    async def _answer_errors(
        self, request: web.Request, handler: Callable[..., Any]
    ) -> web.StreamResponse:
        """Makes JSON of every error, and sets headers."""
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
        """Refuses what another site's name, led here, would ask."""
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


async def _json(function: Callable[..., Any], *arguments: Any) -> web.Response:
    """Answers with what a function returns, called outside the event loop."""
    value = await asyncio.to_thread(function, *arguments)
    return web.json_response(value, dumps=_dumps)


def _dumps(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def _error(status: int, message: str, hint: str) -> web.Response:
    return web.json_response(
        {"error": message, "hint": hint}, status=status, dumps=_dumps
    )


def serve_until_signal(
    app: ExplorerApp, on_ready: Callable[[ExplorerApp], None]
) -> None:
    """Serves until SIGINT or SIGTERM."""

    async def run() -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
        await app.start()
        try:
            on_ready(app)
            await stopped.wait()
        finally:
            await app.stop()

    asyncio.run(run())
