"""A headless Chromium, driven by the Chrome DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
)
_KEYS = {
    "Enter": ("Enter", 13, "\r"),
    "ArrowDown": ("ArrowDown", 40, ""),
    "ArrowUp": ("ArrowUp", 38, ""),
    "Escape": ("Escape", 27, ""),
    "Tab": ("Tab", 9, ""),
}
_WAIT_S = 60.0


def find() -> str | None:
    """The browser of this machine: $CHROMIUM, or one on the path."""
    wanted = os.environ.get("CHROMIUM")
    for name in [wanted] if wanted else NAMES:
        if found := shutil.which(name):
            return found
    return None


class Page:
    """One tab.

    Attributes:
        problems: exceptions, errors of the console, and addresses outside.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._reader = asyncio.create_task(self._read())
        self._requests: list[str] = []
        self.problems: list[str] = []

    @property
    def requested(self) -> list[str]:
        """Addresses that the page asked for."""
        return list(self._requests)

    async def send(self, method: str, **parameters: Any) -> Any:
        """Calls a method of the protocol."""
        number = len(self._answers) + 1
        answer = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        message = {"id": number, "method": method, "params": parameters}
        await self._socket.send_json(message)
        return await asyncio.wait_for(answer, _WAIT_S)

    async def open(self, url: str) -> None:
        """Opens an address."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.send(f"{domain}.enable")
        await self.send("Page.navigate", url=url)

    async def value(self, expression: str) -> Any:
        """Evaluates JavaScript."""
        answer = await self.send(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Waits until JavaScript gives something true."""
        deadline = asyncio.get_running_loop().time() + _WAIT_S
        while not (found := await self.value(expression)):
            assert asyncio.get_running_loop().time() < deadline, expression
            await asyncio.sleep(0.05)
        return found

    async def press(self, key: str) -> None:
        """Presses a key: one of its names, or a character."""
        name, code, text = _KEYS.get(key, (key, ord(key[0].upper()), key))
        pressed = {"key": name, "windowsVirtualKeyCode": code}
        down = "keyDown" if text else "rawKeyDown"
        await self.send(
            "Input.dispatchKeyEvent", type=down, text=text, **pressed
        )
        await self.send("Input.dispatchKeyEvent", type="keyUp", **pressed)

    async def type(self, text: str) -> None:
        """Presses the keys of a text."""
        for character in text:
            await self.press(character)

    async def click(self, selector: str) -> None:
        """Clicks into the middle of an element."""
        box = await self.value(
            f"(() => {{ const e = document.querySelector({selector!r});"
            "e.scrollIntoView({block: 'nearest'});"
            "const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.send(
                "Input.dispatchMouseEvent",
                type=kind,
                x=box[0],
                y=box[1],
                button="left",
                clickCount=1,
            )

    async def shape(self, width: int, height: int, dark: bool = False) -> None:
        """Sets the window's size and the preferred colors."""
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = "dark" if dark else "light"
        await self.send(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    async def screenshot(self, path: pathlib.Path) -> None:
        """Writes what is seen as PNG."""
        answer = await self.send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(answer["data"]))

    async def close(self) -> None:
        """Ends reading."""
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        async for message in self._socket:
            found = json.loads(message.data)
            if "id" in found:
                answer = self._answers[found["id"]]
                if "error" in found:
                    answer.set_exception(RuntimeError(str(found["error"])))
                else:
                    answer.set_result(found["result"])
                continue
            method, details = found["method"], found["params"]
            if method == "Runtime.exceptionThrown":
                self.problems.append(str(details["exceptionDetails"]))
            elif method == "Log.entryAdded":
                if details["entry"]["level"] == "error":
                    self.problems.append(str(details["entry"]))
            elif method == "Network.requestWillBeSent":
                self._requests.append(details["request"]["url"])


@contextlib.asynccontextmanager
async def opened(
    executable: str, folder: pathlib.Path, url: str
) -> AsyncIterator[Page]:
    """A page in a browser of its own, which ends with the context.

    Args:
        executable: the browser.
        folder: for its profile.
        url: address to open.
    """
    ready = folder / "DevToolsActivePort"
    browser = subprocess.Popen(
        [
            executable,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--remote-debugging-port=0",
            f"--user-data-dir={folder}",
            "about:blank",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = asyncio.get_running_loop().time() + _WAIT_S
        while not ready.exists() or not ready.read_text().strip():
            assert browser.poll() is None, f"{executable} ended by itself"
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)
        port = ready.read_text().split()[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                tabs = await answer.json(content_type=None)
            target = next(tab for tab in tabs if tab["type"] == "page")
            async with session.ws_connect(
                target["webSocketDebuggerUrl"], max_msg_size=0
            ) as socket:
                page = Page(socket)
                try:
                    await page.open(url)
                    yield page
                finally:
                    await page.close()
    finally:
        browser.terminate()
        try:
            browser.wait(10)
        except subprocess.TimeoutExpired:
            browser.kill()
            browser.wait()
