"""Replay: requests of a dump (`--dump-requests-folder`) sent again, at the pace at which they came or another."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from sglcore.bench.http_client import Failed, HttpClient
from sglcore.errors import ConfigError

SUFFIX = "*.jsonl"


class Dumped(msgspec.Struct):
    """One line of a dump, as far as it is needed here. at: unix seconds; seconds: that the answer took."""

    path: str
    body: msgspec.Raw
    at: float = 0.0
    status: int = 0
    seconds: float = 0.0


class Sent(msgspec.Struct):
    """One request that was sent again. error: "" where it was answered with 200."""

    seconds: float
    bytes: int = 0
    error: str = ""


def read_dumps(files: Iterable[Path]) -> list[Dumped]:
    """The requests of some files, in the order of their coming. Raises ConfigError naming file and line."""
    decoder, found = msgspec.json.Decoder(Dumped), []
    for file in files:
        try:
            with file.open("rb") as lines:
                for number, line in enumerate(lines, 1):  # noqa: B007  (told below)
                    if line.strip():
                        found.append(_checked(decoder.decode(line)))
        except OSError as error:
            raise ConfigError(f"{file} cannot be read: {error.strerror or error}.") from None
        except (msgspec.DecodeError, ValueError) as error:
            raise ConfigError(
                f"{file}, line {number}: not a dumped request: {error}.",
                remedy="Give files that --dump-requests-folder or --crash-dump-folder has written.",
            ) from None
    return sorted(found, key=lambda one: one.at)


def files_of(folder: Path) -> list[Path]:
    """The dumps in a folder. Raises ConfigError where there is none."""
    files = sorted(folder.glob(SUFFIX)) if folder.is_dir() else []
    if not files:
        raise ConfigError(f"{folder} holds no dump.", remedy="Give a folder with .jsonl files.")
    return files


def body_again(body: msgspec.Raw) -> bytes:
    """The body as it was, without the request id: it may be in use, or come twice."""
    value = msgspec.json.decode(body)
    if not isinstance(value, dict) or "rid" not in value:
        return bytes(body)
    return msgspec.json.encode({name: inner for name, inner in value.items() if name != "rid"})


async def replay(
    client: HttpClient, dumped: list[Dumped], parallel: int, speed: float, tell: Callable[[Sent], None]
) -> list[Sent]:
    """Send all, at most `parallel` at once. speed: 2.0 sends twice as fast as they came, infinite as fast as may be."""
    seats, began = asyncio.Semaphore(parallel), time.monotonic()

    async def one(request: Dumped) -> Sent:
        due = (request.at - dumped[0].at) / speed
        await asyncio.sleep(max(began + due - time.monotonic(), 0.0))
        async with seats:
            sent = await _send(client, request)
        tell(sent)
        return sent

    return list(await asyncio.gather(*(one(request) for request in dumped)))


def report(dumped: list[Dumped], sent: list[Sent], took: float) -> dict[str, Any]:
    """Counts, latencies in seconds beside those that were recorded, and the errors by kind."""
    good = [one.seconds for one in sent if not one.error]
    recorded = [one.seconds for one in dumped if one.status == 200]
    return {
        "requests": len(sent),
        "succeeded": len(good),
        "failed": len(sent) - len(good),
        "duration": round(took, 3),
        "request_throughput": round(len(sent) / took, 3) if took else 0.0,
        **_quantiles("latency", good),
        **_quantiles("recorded_latency", recorded),
        "errors": dict(Counter(one.error for one in sent if one.error).most_common(10)),
    }


def _quantiles(name: str, values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    found = {"mean": np.mean(values), "median": np.median(values), "p99": np.percentile(values, 99)}
    return {f"{kind}_{name}": round(float(value), 4) for kind, value in found.items()}


async def _send(client: HttpClient, request: Dumped) -> Sent:
    began, count = time.perf_counter(), 0
    try:
        async with aclosing(client.stream(request.path, body_again(request.body))) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                count += len(piece)
    except Failed as error:
        return Sent(time.perf_counter() - began, count, str(error) or "failed")
    return Sent(time.perf_counter() - began, count)


def _checked(dumped: Dumped) -> Dumped:
    if not dumped.path.startswith("/") or dumped.path.startswith("//"):
        raise ValueError(f"its path is {dumped.path[:80]!r}")
    return dumped
