"""The HTTP connections of a benchmark, over aiohttp: the library that takes the least of the processor per chunk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any

import msgspec

from sglcore.errors import ConfigError

CONNECT_SECONDS = 60.0
CONTROL_SECONDS = 60.0
POLL_SECONDS = 0.2
SHOWN = 500  # characters of a refusal that are repeated
BUFFER = 1 << 18

try:
    import aiohttp
except ImportError:  # the extra `bench` brings it
    aiohttp = None  # type: ignore[assignment]


class Failed(Exception):
    """A request that did not succeed; the text says why."""


class HttpClient:
    """Connections to one server. Use as an async context manager. timeout: seconds that a request may take in all.

    Raises ConfigError where aiohttp is not installed.
    """

    def __init__(self, root: str, headers: Mapping[str, str], timeout: float) -> None:
        if aiohttp is None:
            raise ConfigError("Sending requests needs aiohttp.", remedy="pip install 'sglcore[bench]'")
        self.root = root.rstrip("/")
        self._headers = {"Content-Type": "application/json", **headers}
        self._timeout = timeout
        self._session: Any = None

    async def __aenter__(self) -> HttpClient:
        limits = aiohttp.ClientTimeout(total=self._timeout, sock_connect=CONNECT_SECONDS)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=limits, headers=self._headers, read_bufsize=BUFFER
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def stream(self, path: str, body: bytes) -> AsyncIterator[bytes]:
        """Pieces of the answer to a POST, as they arrive. Raises Failed."""
        try:
            async with self._session.post(self.root + path, data=body) as response:
                if response.status != 200:
                    text = (await response.content.read(4 * SHOWN)).decode(errors="replace")
                    raise Failed(f"HTTP {response.status}: {text[:SHOWN]}")
                async for piece in response.content.iter_any():
                    yield piece
        except aiohttp.ClientError as error:
            raise Failed(f"{type(error).__name__}: {error}") from None
        except TimeoutError:
            raise Failed(f"No whole answer within {self._timeout:g} s.") from None

    async def get(self, path: str) -> Any:
        """The JSON answer to a GET; None where there is none."""
        return await self._control("GET", path)

    async def post(self, path: str) -> bool:
        """Whether a POST without a body succeeded."""
        return await self._control("POST", path) is not None

    async def ready(self, path: str, seconds: float) -> None:
        """Wait until `path` is answered at all. Raises ConfigError after `seconds`."""
        told = "no answer"
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        async with self._session.get(self.root + path) as response:
                            if response.status < 500:
                                return
                            told = f"HTTP {response.status}"
                    except aiohttp.ClientError as error:
                        told = str(error)
                    await asyncio.sleep(POLL_SECONDS)  # between two attempts, within the limit above
        except TimeoutError:
            raise ConfigError(
                f"{self.root} did not get ready within {seconds:g} s: {told}.",
                remedy="Start the server first, or name another with --base-url.",
            ) from None

    async def _control(self, method: str, path: str) -> Any:
        limit = aiohttp.ClientTimeout(total=CONTROL_SECONDS)
        try:
            async with self._session.request(method, self.root + path, timeout=limit) as response:
                content = await response.read()
                if response.status != 200:
                    return None
        except (aiohttp.ClientError, TimeoutError):
            return None
        try:
            return msgspec.json.decode(content or b"{}")
        except msgspec.DecodeError:
            return {}
