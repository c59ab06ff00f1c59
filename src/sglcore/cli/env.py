"""`sglcore env`: versions and hardware, read from metadata and the system. Nothing heavy is imported."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

import sglcore

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "msgspec", "pluggy", "starlette", "uvicorn")
GROUPS = "sglcore."  # entry-point groups of plugins start so


def register(app: typer.Typer, argv: list[str]) -> None:
    """Add the command to `app`."""
    app.command("env")(env)


def env(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show versions and hardware, for a bug report."""
    facts = collect()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items()) or "none"
        typer.echo(f"{name + ':':<14} {value}")


def collect() -> dict[str, Any]:
    """The facts by name. A library that is not installed reads "not installed"; memory is in GiB."""
    facts: dict[str, Any] = {"sglcore": sglcore.__version__, "python": platform.python_version()}
    facts |= {name: _version(name) for name in LIBRARIES}
    facts["platform"] = platform.platform()
    facts["cpu"] = cpu_model()
    facts["cores"] = _cores()
    facts["memory_gib"] = memory_gib()
    facts["plugins"] = _plugins()
    return facts


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, as the kernel or else the platform module tells it."""
    try:
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def memory_gib() -> float | None:
    """Physical memory in GiB, None where the system does not say."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _cores() -> int | None:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _plugins() -> dict[str, str]:
    """Distributions, other than sglcore, with an entry point for it."""
    found = {
        d.name: d.version
        for d in metadata.distributions()
        if d.name != sglcore.__name__ and any(p.group.startswith(GROUPS) for p in d.entry_points)
    }
    return dict(sorted(found.items()))
