"""Asks a platform whether its hardware is there, in a fresh interpreter, and reports what that started.

Run as `python platform_probe.py MODULE:CLASS DEVICE`.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading


def initialised(device: str) -> bool:
    """Whether torch has started the device in this process; False for the CPU, which needs no start."""
    import torch

    module = None if device == "cpu" else torch.get_device_module(device)
    asked = getattr(module, "is_initialized", None)
    return bool(asked is not None and asked())


def main(factory: str, device: str) -> None:
    """Print {"answer", "initialised", "threads"} as JSON."""
    import torch

    torch.zeros(1)  # what torch starts by itself is not the platform's doing
    module, _, attribute = factory.partition(":")
    make = getattr(importlib.import_module(module), attribute)
    before = {thread.ident for thread in threading.enumerate()}
    answer = make().unavailable()
    threads = [thread.name for thread in threading.enumerate() if thread.ident not in before]
    started = answer is None and initialised(device)
    sys.stdout.write(json.dumps({"answer": answer, "initialised": started, "threads": threads}))


if __name__ == "__main__":
    # the script's own folder leads the search path, where testing's files would stand in for top-level modules
    del sys.path[0]
    main(*sys.argv[1:])
