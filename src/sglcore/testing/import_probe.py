"""Imports one module in a fresh interpreter and reports, as JSON, what it cost and what it left behind.

Run as `python import_probe.py MODULE`: standard library only, until core's light part is loaded as it is at start.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

# What listing and choosing have loaded before they import a plugin's module.
CORE = ("sglcore.plugins", "sglcore.hookspecs", "sglcore.options", "sglcore.errors")
HEAVY = ("torch", "transformers", "numpy", "scipy", "pandas", "triton", "jax", "tensorflow", "torchvision")
# Interpreter events that no import of a light module has a use for, by what they are.
DEEDS = {
    "socket.": "uses a socket",
    "subprocess.": "starts a process",
    "os.system": "starts a process",
    "os.exec": "starts a process",
    "os.posix_spawn": "starts a process",
    "os.fork": "starts a process",
    "os.mkdir": "writes a directory",
    "os.remove": "removes a file",
    "os.rename": "renames a file",
    "os.rmdir": "removes a directory",
    "os.link": "makes a link",
    "os.symlink": "makes a link",
    "os.chmod": "changes a file",
    "os.truncate": "changes a file",
    "shutil.": "changes files",
    "tempfile.": "writes a file",
    "pickle.find_class": "unpickles",
    "urllib.Request": "uses the network",
}


def forgiven(path: Any) -> bool:
    """Whether writing there is Python's own doing: its caches of compiled modules."""
    return isinstance(path, str) and "__pycache__" in path


def deed_of(event: str, arguments: tuple[Any, ...]) -> str:
    """What an audit event says the module does, "" for nothing worth telling."""
    if any(forgiven(argument) for argument in arguments):
        return ""
    if event == "open":
        flags = arguments[2] if len(arguments) > 2 and isinstance(arguments[2], int) else 0
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC)
        return f"opens {arguments[0]!r} for writing" if writes else ""
    for start, what in DEEDS.items():
        if event.startswith(start):
            return f"{what} ({event})"
    return ""


def state() -> dict[str, Any]:
    """What an import may not change, by name; values compare by equality."""
    root = logging.getLogger()
    return {
        "environment variables": dict(os.environ),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "signal handlers": {int(number): repr(signal.getsignal(number)) for number in signal.valid_signals()},
        "logging": [
            root.level,
            [repr(h) for h in root.handlers],
            logging.root.manager.disable,
            logging.raiseExceptions,
        ],
        "loggers of others": sorted(_told_loggers()),
        "warning filters": [repr(entry) for entry in warnings.filters],
        "the module search path": [list(sys.path), [repr(finder) for finder in sys.meta_path]],
        "the working directory": os.getcwd(),
        "the excepthook": repr(sys.excepthook),
        "standard output": [id(sys.stdout), id(sys.stderr), id(sys.stdin)],
        "limits of the interpreter": [
            sys.getrecursionlimit(),
            sys.getswitchinterval(),
            gc.isenabled(),
            gc.get_threshold(),
        ],
        "the random seed": hash(random.getstate()),
    }


def _told_loggers() -> list[str]:
    named = logging.root.manager.loggerDict.items()
    return [n for n, found in named if isinstance(found, logging.Logger) and (found.handlers or found.level)]


def preload() -> None:
    """Load what core has loaded by then."""
    for name in CORE:
        importlib.import_module(name)
    families: Any = importlib.import_module("sglcore.contracts.families")
    for family in families.FAMILIES.values():
        if family.spec:
            importlib.import_module(family.spec.partition(":")[0])


def watch(act: Callable[[], Any]) -> dict[str, Any]:
    """Run `act` -> {"seconds", "changed": {state: [before, after]}, "deeds", "heavy"}."""
    deeds: list[str] = []
    watching = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and (deed := deed_of(event, arguments)):
            deeds.append(deed)

    sys.addaudithook(hook)
    before, loaded = state(), set(sys.modules)
    started = time.perf_counter()
    act()
    seconds = time.perf_counter() - started
    watching = False
    after = state()
    changed = {name: [repr(before[name]), repr(after[name])] for name in before if before[name] != after[name]}
    heavy = sorted(name for name in HEAVY if name in sys.modules and name not in loaded)
    return {"seconds": seconds, "changed": changed, "deeds": deeds, "heavy": heavy}


def main(module: str) -> None:
    """Report on one module; the report is the last line of standard output."""
    preload()
    report = watch(lambda: importlib.import_module(module))
    sys.stdout.write("\n" + json.dumps(report) + "\n")


if __name__ == "__main__":
    # the script's own folder leads the search path, where testing's files would stand in for top-level modules
    del sys.path[0]
    main(sys.argv[1])
