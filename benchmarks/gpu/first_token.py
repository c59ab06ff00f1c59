"""From starting `sglcore serve` to its first token, by phase; and how the first requests fare beside later ones.

`python benchmarks/gpu/first_token.py` starts a server twice: cold, with empty folders for everything that is compiled
(kernels of Triton, FlashInfer, the driver and torch's compiler), then warm, with what the first one left there. Files
are in the page cache both times if they were before. As soon as the first token is there, 100 requests come, 16 at a
time, while graphs may still be captured; after a rest the same again, which is the steady state. Milliseconds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from figures import summary, worst_ratio
from served import Server, heed_sigterm
from shapes import MODELS, folder
from sizes import SIZES, Prompts, Sizes, common_arguments, flags_of
from streams import Clients, ask_now

REST = 15.0  # for captures that wait for an idle engine
CACHES = {
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TORCH_EXTENSIONS_DIR": "extensions",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "CUDA_CACHE_PATH": "cuda",
    "XDG_CACHE_HOME": "cache",
}


def environment(under: Path) -> dict[str, str]:
    """Variables that put all that is compiled below one folder."""
    found = {name: under / part for name, part in CACHES.items()}
    for path in found.values():
        path.mkdir(parents=True, exist_ok=True)
    return {name: str(path) for name, path in found.items()}


def start(path: Path, vocab: int, flags: dict[str, Any], caches: Path, sizes: Sizes) -> dict[str, Any]:
    """One start: seconds by phase, then both hundreds."""
    dice = Prompts(vocab)
    count, at_once, length, new = sizes.early
    hundreds = [Clients(dice.some(count, length), new, at_once=at_once) for _ in range(2)]
    try:
        server = Server(path, {"disable_radix_cache": True, **flags}, environment(caches))
        try:
            first = ask_now(server.address, [dice.one(8)], 1)[0].first
            found = phases(server, first)
            found["first_100"] = summary(hundreds[0].go(server.address)[0])
            time.sleep(REST if sizes.rest else 0)
            found["steady"] = summary(hundreds[1].go(server.address)[0])
        finally:
            server.stop()
    finally:
        for clients in hundreds:
            clients.close()
    found["first_100_over_steady"] = worst_ratio(found["first_100"], found["steady"])
    return found


def phases(server: Server, first: float) -> dict[str, Any]:
    """Seconds: the engine's phases, what is beside them until ready, and the first token."""
    told = {name: round(seconds, 3) for name, seconds in server.info()["start_phases"].items()}
    ready = server.ready - server.started
    return {
        "first_token_s": round(first - server.started, 3),
        "ready_s": round(ready, 3),
        "phases": told,
        "beside_phases_s": round(ready - sum(told.values()), 3),  # imports, processes, plugins, the face
    }


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="llama-8b")
    parser.add_argument("--only", default="cold,warm", help="warm alone takes the folders as they are: give --caches")
    parser.add_argument("--caches", type=Path, help="folder of what is compiled; default: a fresh one")
    parser.add_argument("--json", type=Path)
    common_arguments(parser)
    asked = parser.parse_args()
    heed_sigterm()
    flags = flags_of(asked.flags)
    told: dict[str, Any] = {"model": asked.model, "size": asked.size, "flags": flags}
    with tempfile.TemporaryDirectory() as scratch:
        path = folder(asked.model, Path(scratch), asked.layers)
        caches = asked.caches or Path(scratch) / "compiled"
        vocab, sizes = MODELS[asked.model]["vocab_size"], SIZES[asked.size]
        for which in asked.only.split(","):
            told[which] = start(path, vocab, flags, caches, sizes)
            shown = {k: v for k, v in told[which].items() if k not in ("first_100", "steady")}
            print(f"{asked.model} {which}: {shown}", flush=True)
            print(f"  first 100 {told[which]['first_100']}\n  steady    {told[which]['steady']}", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
