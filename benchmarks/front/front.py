"""The HTTP face alone: one API worker on one core, an engine that computes nothing, clients in another process.

    python benchmarks/front/front.py [--seconds 8] [--streams 120 256] [--json FILE]

For each number of streams, at 100 tokens/s each with one chunk a token asked for: the latency that the face adds (from
the moment at which the step was sent by the engine to that at which the client has read the chunk), how many chunks
held more than one token, tokens lost, CPU of the worker. Then chunks a second at full speed, and those of a bare
Starlette app that sends ready-made chunks of the same length over as many connections.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent))
from stand_in import LETTERS, StandIn
from streams import Drain, Stream, chat_body

from sglcore.engine.model_files import open_checkpoint, resolve_model
from sglcore.plugins import discover
from sglcore.server_config import ServerConfig
from sglcore.text.service import Text

APP = Path(__file__).resolve().parent / "app.py"
RATE = 100  # tokens a second and stream
SPREAD = 20  # steps over which streams begin
PATIENCE = 60.0
TICK = 0.01  # seconds: what the system counts CPU time in
PACKAGES = ("uvicorn", "uvloop", "httptools", "starlette", "msgspec", "pyzmq")


def letter_ids() -> list[int]:
    """The demo model's tokens for the letters, one each."""
    plugins = discover()
    config = ServerConfig(model_path="demo")
    checkpoint = open_checkpoint(resolve_model("demo", config, plugins), "auto", plugins)
    text = Text(checkpoint.text_assets())
    ids = [text.encode(letter, add_special_tokens=False)[-1] for letter in LETTERS]
    assert [text.token_bytes(i) for i in ids] == [letter.encode() for letter in LETTERS]
    return ids


@asynccontextmanager
async def server(kind: str, address: str) -> AsyncIterator[tuple[int, psutil.Process]]:
    """The server process on core 0; yields its port."""
    process = subprocess.Popen([sys.executable, str(APP), kind, address, "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), PATIENCE))
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 20)
        except subprocess.TimeoutExpired:
            process.kill()


def cpu(process: psutil.Process) -> float:
    """Seconds of CPU so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def open_streams(port: int, engine: StandIn, count: int, tokens: int, on_token: Any = None) -> list[Stream]:
    """`count` requests, all of them with the engine."""
    loop = asyncio.get_running_loop()
    engine.rows.clear()
    opened = []
    for i in range(count):
        body = chat_body(f"r{i}", tokens)
        _, stream = await loop.create_connection(
            lambda body=body: Stream("/v1/chat/completions", body, on_token), "127.0.0.1", port
        )
        opened.append(stream)
    end = time.monotonic() + PATIENCE
    while len(engine.rows) < count:
        assert time.monotonic() < end, f"{len(engine.rows)} of {count} requests have come"
        await asyncio.sleep(0.01)
    return opened


def figures(streams: list[Stream], engine: StandIn, tokens: int) -> dict[str, Any]:
    """What the clients saw."""
    expected = (LETTERS * (tokens // len(LETTERS) + 1))[:tokens].encode()
    waits: list[float] = []
    sizes: list[int] = []
    for i, stream in enumerate(streams):
        at = engine.rows[f"r{i}"].first
        for when, count in stream.chunks:
            waits += [when - sent for sent in engine.times[at : at + count]]
            at += count
            sizes.append(count)
    added = 1000 * np.array(waits)
    chunks = np.array(sizes)
    return {
        "tokens": int(chunks.sum()),
        "tokens_lost": sum(bytes(stream.text) != expected for stream in streams)
        and len(streams) * tokens - int(chunks.sum()),
        "streams_wrong": sum(bytes(stream.text) != expected for stream in streams),
        "chunks": len(chunks),
        "coalesced": int((chunks > 1).sum()),
        "largest_chunk": int(chunks.max()),
        "added_ms_p50": round(float(np.percentile(added, 50)), 2),
        "added_ms_p99": round(float(np.percentile(added, 99)), 2),
        "added_ms_max": round(float(added.max()), 2),
    }


async def paced(port: int, process: psutil.Process, engine: StandIn, count: int, seconds: float) -> dict[str, Any]:
    """`count` streams at RATE."""
    tokens = int(seconds * RATE)
    streams = await open_streams(port, engine, count, tokens)
    before, began = cpu(process), time.monotonic()
    await engine.run(RATE, spread=SPREAD)
    await asyncio.wait_for(asyncio.gather(*(stream.done for stream in streams)), PATIENCE)
    spent, took = max(cpu(process) - before, TICK), time.monotonic() - began
    found = figures(streams, engine, tokens)
    return {
        "streams": count,
        "cpu": round(spent / took, 3),
        "cpu_us_per_token": round(1e6 * spent / found["tokens"], 1),
    } | found


async def full_speed(port: int, process: psutil.Process, engine: StandIn, count: int, steps: int) -> dict[str, Any]:
    """A new step as soon as the clients have read half of the last one: the server is never idle, and never far
    behind."""
    ready = asyncio.Event()
    left = count // 2

    def on_token(tokens: int) -> None:
        nonlocal left
        left -= tokens
        if left <= 0:
            left += count
            ready.set()

    streams = await open_streams(port, engine, count, steps, on_token)
    ready.set()
    before, began = cpu(process), time.monotonic()
    await engine.run(0, ready)
    await asyncio.wait_for(asyncio.gather(*(stream.done for stream in streams)), PATIENCE)
    spent, took = max(cpu(process) - before, TICK), time.monotonic() - began
    found = figures(streams, engine, steps)
    read = sum(stream.read for stream in streams)
    return {
        "chunks_per_s": round(found["chunks"] / took),
        "chunks_per_cpu_s": round(found["chunks"] / spent),
        "bytes_per_chunk": round(read / found["chunks"]),
        "coalesced": found["coalesced"],
    }


async def bare(port: int, process: psutil.Process, count: int, chunks: int, size: int, apart: bool) -> dict[str, Any]:
    """The bare app, `count` connections of `chunks` chunks each; `apart`: each written by itself, as chunks that come
    one after another are, and not as many at once as the connection takes."""
    loop = asyncio.get_running_loop()
    body = json.dumps({"chunks": chunks, "bytes": size, "apart": apart}).encode()
    before, began = cpu(process), time.monotonic()
    drains = [(await loop.create_connection(lambda: Drain("/", body), "127.0.0.1", port))[1] for _ in range(count)]
    await asyncio.wait_for(asyncio.gather(*(drain.done for drain in drains)), PATIENCE)
    spent, took = max(cpu(process) - before, TICK), time.monotonic() - began
    read = sum(drain.read for drain in drains)
    assert read >= count * chunks * size, "the bare app sent less than it was asked for"
    return {"chunks_per_s": round(count * chunks / took), "chunks_per_cpu_s": round(count * chunks / spent)}


async def measure(counts: list[int], seconds: float, rounds: int) -> dict[str, Any]:
    """All of it."""
    found: dict[str, Any] = {"paced": [], "full_speed": []}
    with tempfile.TemporaryDirectory(prefix="front-") as folder:
        address = f"ipc://{folder}/engine"
        engine = StandIn(address, letter_ids())
        reading = asyncio.create_task(engine.read())
        async with server("sglcore", address) as ours, server("bare", "") as theirs:
            await full_speed(*ours, engine, 8, 50)  # warm
            for count in counts:
                found["paced"].append(await paced(*ours, engine, count, seconds))
                print(json.dumps(found["paced"][-1]), flush=True)
            for _ in range(rounds):  # one after another, as the machine's speed changes
                one: dict[str, Any] = {"sglcore": await full_speed(*ours, engine, counts[0], int(seconds * 50))}
                size = one["sglcore"]["bytes_per_chunk"]
                for name, apart in (("bare", True), ("bare_merged_writes", False)):
                    one[name] = await bare(*theirs, counts[0], int(seconds * 150), size, apart)
                found["full_speed"].append(one)
                print(json.dumps(one), flush=True)
        reading.cancel()
        engine.close()
    for name in ("bare", "bare_merged_writes"):
        for figure in ("chunks_per_s", "chunks_per_cpu_s"):
            ratios = [one["sglcore"][figure] / one[name][figure] for one in found["full_speed"]]
            found[f"ratio_to_{name}_{figure}"] = round(float(np.median(ratios)), 3)
    print(json.dumps({name: value for name, value in found.items() if name.startswith("ratio")}), flush=True)
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--streams", type=int, nargs="+", default=[120, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(range(1, os.cpu_count() or 1)) or {0})
    gc.disable()  # a pause of this process would look like one of the server
    found = uvloop.run(measure(asked.streams, asked.seconds, asked.rounds))
    found["machine"] = {
        "date": datetime.date.today().isoformat(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "load": [round(x, 1) for x in os.getloadavg()],
        **{name: version(name) for name in PACKAGES},
    }
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
