"""A real browser for tests of pages: Debian's Chromium, driven over its DevTools protocol."""

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-port=0",
)  # fmt: skip


class Page:
    """One open page.

    Attributes:
        complaints: what its console said that isn't plain logging, and every exception that nobody caught.
        asked: every address that it loaded.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._last = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self.complaints: list[str] = []
        self.asked: list[str] = []

    async def listen(self) -> None:
        async for message in self._socket:
            event = json.loads(message.data)
            if future := self._waiting.pop(event.get("id", -1), None):
                future.set_result(event)
            elif event.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(event["params"]["exceptionDetails"]))
            elif event.get("method") == "Log.entryAdded":
                self.complaints.append(event["params"]["entry"]["text"])
            elif event.get("method") == "Network.requestWillBeSent":
                self.asked.append(event["params"]["request"]["url"])

    async def command(self, method: str, **params: Any) -> Any:
        """A command of the DevTools protocol, and its result."""
        self._last += 1
        future = self._waiting[self._last] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": self._last, "method": method, "params": params})
        answer = await asyncio.wait_for(future, 20)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    async def open(self, address: str) -> None:
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            await self.command(f"{domain}.enable")
        await self.command("Page.navigate", url=address)
        await self.until(f"location.href === {json.dumps(address)} && document.readyState === 'complete'")

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = await self.command("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, condition: str, seconds: float = 15) -> None:
        """Wait in the page until an expression is true."""
        try:
            async with asyncio.timeout(seconds):
                while not await self.run(f"Boolean({condition})"):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            text = await self.run("document.body && document.body.innerText")
            raise AssertionError(f"never came true: {condition}\n{self.complaints}\n{text}") from None

    async def pick(self, selector: str, file: Path) -> None:
        """Pick a file in an ``<input type=file>``."""
        root = await self.command("DOM.getDocument")
        node = await self.command("DOM.querySelector", nodeId=root["root"]["nodeId"], selector=selector)
        await self.command("DOM.setFileInputFiles", nodeId=node["nodeId"], files=[str(file)])

    async def size(self, width: int, height: int, *, mobile: bool = False, dark: bool = False) -> None:
        await self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.command("Emulation.setEmulatedMedia", features=[scheme])

    async def paper(self) -> None:
        """Show the page as it would be printed."""
        await self.command("Emulation.setEmulatedMedia", media="print")

    async def picture(self, file: Path) -> None:
        """The whole page as a PNG."""
        shot = await self.command("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """A browser with one empty page and a profile of its own."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [CHROMIUM, *SWITCHES, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = await _port(Path(profile) / "DevToolsActivePort", process)
            async with aiohttp.ClientSession() as client:
                async with client.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    target = next(one for one in await answer.json() if one["type"] == "page")
                async with client.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=64 << 20) as socket:
                    page = Page(socket)
                    listener = asyncio.create_task(page.listen())
                    try:
                        yield page
                    finally:
                        listener.cancel()
        finally:
            process.terminate()
            process.wait(20)


async def _port(file: Path, process: "subprocess.Popen[bytes]") -> str:
    """The port that the browser writes down once it listens."""
    async with asyncio.timeout(30):
        while not file.is_file() or "\n" not in file.read_text():
            assert process.poll() is None, "the browser ended"
            await asyncio.sleep(0.05)
    return file.read_text().splitlines()[0]
