"""What a test needs to know of the machine it runs on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sglcore.contracts.spec import Spec


def has_device(kind: str) -> bool:
    """Whether torch can put a tensor on a device of this type here."""
    if kind.partition(":")[0] == "cpu":
        return True
    try:
        return bool(torch.get_device_module(kind.partition(":")[0]).is_available())
    except (RuntimeError, AttributeError):
        return False


def need_device(kind: str) -> None:
    """Skip the test where the device is not here."""
    if not has_device(kind):
        pytest.skip(f"no {kind} device here")


def need_probe(spec: Spec) -> None:
    """Skip the test where the plugin itself says that it cannot run here."""
    problem = spec.problem()
    if problem is not None:
        pytest.skip(f"{spec.name}: {problem}")


def device_of(platforms: tuple[str, ...]) -> str:
    """A device type to test on, out of the platforms that a Spec declares; "cpu" where it says any."""
    kinds = [getattr(p, "device", p) for p in platforms] or ["cpu"]
    present: list[Any] = [kind for kind in kinds if has_device(str(kind))]
    return str((present or kinds)[0])
