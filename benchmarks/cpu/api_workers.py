"""Requests per second over HTTP with 1 and 2 API workers: the demo model, chat, one short answer each.

    python benchmarks/cpu/api_workers.py [--requests 100] [--streams 32]

The client is a process of its own and needs a core, the engine another: on fewer cores than processes more workers
cannot show a gain.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

BODY: dict[str, Any] = {
    "model": "demo",
    "messages": [{"role": "user", "content": "Tell me of rivers. " * 40}],
    "max_tokens": 4,
    "stream": True,
}


async def rate(url: str, requests: int, streams: int) -> float:
    """Requests per second, `streams` at once."""
    left = iter(range(requests))
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=httpx.Limits(max_connections=streams)) as client:

        async def loop() -> None:
            for _ in left:
                (await client.post("/v1/chat/completions", json=BODY)).raise_for_status()

        await asyncio.gather(*(loop() for _ in range(streams)))  # connections, caches
        left, began = iter(range(requests)), time.perf_counter()
        await asyncio.gather(*(loop() for _ in range(streams)))
        return requests / (time.perf_counter() - began)


def measured(workers: int, requests: int, streams: int) -> float:
    """Of a server started for it."""
    command = [sys.executable, "-m", "sglcore", "serve", "demo", "--port", "0", "--api-workers", str(workers)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        url = next(found[1] for line in server.stderr if (found := re.search(r"serves .* at (http://\S+)", line)))
        return asyncio.run(rate(url, requests, streams))
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--streams", type=int, default=32)
    options = parser.parse_args()
    found = {f"{n} workers": round(measured(n, options.requests, options.streams), 1) for n in (1, 2)}
    result = {"requests_per_second": found, "cores": os.cpu_count(), **vars(options)}
    print(json.dumps(result))
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
