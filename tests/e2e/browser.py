"""The system's Chromium, without a window: pages whose every complaint is kept, and servers for them to look at."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, sync_playwright

from server.scripted import ScriptedEngine
from sglcore.server import build_app
from sglcore.server.context import ServerContext

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 10_000  # ms that a page may take to come to a state


@contextmanager
def chromium() -> Iterator[Browser]:
    """Skips where there is none; fails in CI, where there must be one."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        reason = "no Chromium is installed (Debian: apt-get install chromium)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        # Chromium's own sandbox needs rights that containers and root do not have; only our pages are shown.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page, and everything that the browser had to complain about: console errors, exceptions, breaches of the CSP.

    requests: the addresses that were asked for.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.add_init_script(
            "document.addEventListener('securitypolicyviolation',"
            " (e) => console.error(`CSP: ${e.violatedDirective} ${e.blockedURI}`));"
        )

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")


@contextmanager
def watched(browser: Browser, url: str, **options: Any) -> Iterator[Watched]:
    """A page of its own context, at `url`."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    try:
        seen = Watched(context.new_page())
        seen.page.goto(url)
        yield seen
    finally:
        context.close()


class Listening:
    """The app over a scripted engine, on a port of its own, in a thread."""

    def __init__(self, context: ServerContext) -> None:
        assert isinstance(context.engine, ScriptedEngine)
        self.engine = context.engine
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.loop = asyncio.new_event_loop()
        self._server = uvicorn.Server(uvicorn.Config(build_app(context), log_level="critical", lifespan="off"))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._server.serve(sockets=[self._socket]))
        self.loop.close()

    def stop(self) -> None:
        """Ends it; what still streams is cut off."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._socket.close()
