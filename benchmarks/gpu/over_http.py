"""The throughput rows over HTTP: `sglcore serve` streams every token to clients in processes of their own.

`python benchmarks/gpu/over_http.py --offline FILE` asks what `offline.py` asked and gives the ratio to its figures;
FILE is the JSON that it wrote on the same card. Native `/generate` with token ids, a chunk a token, all requests at
once. TTFT is from sending a request to its first token, waiting for a seat included; TPOT is the mean time between the
tokens of an answer. One client asks first; where that keeps a core busy, twice as many ask again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from figures import summary
from served import Server, has_flag, heed_sigterm
from shapes import MODELS, folder
from sizes import SIZES, Prompts, Sizes, common_arguments, flags_of
from streams import BUSY, Clients, ask_now, raise_file_limit

ALL = ("offline", "shared")
MOST_CLIENTS = 8


def figures(server: Server, prompts: list[list[int]], new: int, clients: int) -> dict[str, Any]:
    """One row, with what clients and server used of the processor while it ran."""
    waiting = Clients(prompts, new, clients)
    before = server.cpu_seconds()
    streams, busy = waiting.go(server.address)
    after = server.cpu_seconds()
    found = summary(streams)
    if {stream.tokens for stream in streams} != {new}:
        raise RuntimeError(f"answers of {sorted({s.tokens for s in streams})} tokens where {new} were asked for")
    found |= {"clients": clients, "client_busy": busy}
    found["server_busy"] = {k: round((t - before[k]) / found["wall_s"], 2) for k, t in after.items() if k in before}
    return found


def kept_up(server: Server, prompts: list[list[int]], new: int, clients: int | None) -> dict[str, Any]:
    """As `figures`, with as many clients as it takes, if no number is given."""
    count = clients or 1
    found = figures(server, prompts, new, count)
    while clients is None and found["client_busy"] > BUSY and count < MOST_CLIENTS:
        count *= 2
        server_flush(server)
        found = figures(server, prompts, new, count)
    return found


def server_flush(server: Server) -> None:
    """Forget cached prefixes, so that a repetition finds what the first one found."""
    urllib.request.urlopen(urllib.request.Request(f"{server.url}/flush_cache", method="POST"), timeout=30).close()


def rows(sizes: Sizes, vocab: int, wanted: set[str]) -> list[tuple[bool, dict[str, tuple[list[list[int]], int]]]]:
    """(prefix cache on, name -> (prompts, new tokens)) of each server to start."""
    dice = Prompts(vocab)
    found: list[tuple[bool, dict[str, tuple[list[list[int]], int]]]] = []
    if "offline" in wanted:
        found.append((False, {k: (dice.some(count, long), new) for k, (count, long, new) in sizes.cases.items()}))
    if "shared" in wanted:
        found.append((True, {"shared": (dice.shared(sizes), sizes.shared_new)}))
    return found


def beside(found: dict[str, Any], offline: dict[str, Any]) -> dict[str, float]:
    """Over HTTP against offline, by row, where both are known."""
    keys = {name: "shared_tok_s" if name == "shared" else f"offline_{name}" for name in found}
    return {name: round(found[name]["tok_s"] / offline[key], 4) for name, key in keys.items() if offline.get(key)}


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="llama-8b")
    parser.add_argument("--only", default=",".join(ALL), help="comma-separated: " + ", ".join(ALL))
    parser.add_argument("--api-workers", type=int, default=2, help="where the server has that flag")
    parser.add_argument("--clients", type=int, help="client processes; default: as many as keep up")
    parser.add_argument("--offline", type=Path, help="JSON of offline.py, to compare with")
    parser.add_argument("--json", type=Path)
    common_arguments(parser)
    asked = parser.parse_args()
    heed_sigterm()
    raise_file_limit()
    flags = flags_of(asked.flags)
    if has_flag("--api-workers"):
        flags.setdefault("api_workers", asked.api_workers)
    sizes, vocab = SIZES[asked.size], MODELS[asked.model]["vocab_size"]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = folder(asked.model, Path(scratch), asked.layers)
        for cache, cases in rows(sizes, vocab, set(asked.only.split(","))):
            server = Server(path, {"disable_radix_cache": not cache, **flags})
            try:
                print(f"ready after {server.ready - server.started:.1f} s", flush=True)
                ask_now(server.address, Prompts(vocab).some(8, 300), 20)  # warm
                time.sleep(sizes.rest)
                for name, (prompts, new) in cases.items():
                    found[name] = kept_up(server, prompts, new, asked.clients)
                    print(f"{asked.model} over HTTP {name}: {found[name]}", flush=True)
            finally:
                server.stop()
    told = {"model": asked.model, "size": asked.size, "flags": flags, **found}
    if asked.offline:
        told["of_offline"] = beside(found, json.loads(asked.offline.read_text()))
        print(f"of offline: {told['of_offline']}", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
