"""The scheduler's settings that may be changed while it runs: a closed list, with the bounds of their flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from sglcore.config import Count, EngineConfig, Seconds
from sglcore.engine.sampling import convert
from sglcore.errors import RequestError

if TYPE_CHECKING:
    from sglcore.engine.engine import Engine

SMALLEST_CHUNK = 16


class Dials(Struct, kw_only=True):
    """Fields of EngineConfig. Null takes a bound away, where there may be none."""

    max_queued_requests: Count | UnsetType | None = UNSET
    max_queued_tokens: Count | UnsetType | None = UNSET
    request_timeout: Seconds | UnsetType | None = UNSET
    schedule_max_overtakes: Count | UnsetType = UNSET
    chunked_prefill_size: Count | UnsetType = UNSET


NAMES = Dials.__struct_fields__


def read_dials(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Checked changes by name; `prefix` stands before the names in errors. Raises RequestError."""
    for name in values:
        if name not in NAMES:
            raise RequestError(
                f"`{prefix}{str(name)[:80]}` cannot be changed while the server runs.",
                param=f"{prefix}{str(name)[:80]}",
                remedy=f"These can: {', '.join(NAMES)}.",
            )
    asked = convert(values, Dials, prefix)
    return {name: getattr(asked, name) for name in NAMES if getattr(asked, name) is not UNSET}


def shown(config: EngineConfig, changed: Mapping[str, Any]) -> dict[str, Any]:
    """What the dials stand at."""
    return {name: changed.get(name, getattr(config, name)) for name in NAMES}


class DialBoard:
    """Turns them, in the engine's process."""

    def __init__(self, engine: Engine) -> None:
        self._scheduler = engine.scheduler
        self._largest_chunk = engine.scheduler.limits.chunk  # memory was measured with it

    def turn(self, values: dict[str, Any]) -> None:
        """Checked changes by name. Raises RequestError for a chunk that the engine has no memory for."""
        limits = self._scheduler.limits
        chunk = values.get("chunked_prefill_size", limits.chunk)
        if not min(SMALLEST_CHUNK, self._largest_chunk) <= chunk <= self._largest_chunk:
            raise RequestError(
                f"`chunked_prefill_size` is {chunk}; it goes from {SMALLEST_CHUNK} to what the engine was started "
                f"with, {self._largest_chunk}.",
                param="chunked_prefill_size",
            )
        self._scheduler.limit(
            replace(
                limits,
                chunk=chunk,
                queued=values.get("max_queued_requests", limits.queued),
                queued_tokens=values.get("max_queued_tokens", limits.queued_tokens),
                timeout=values.get("request_timeout", limits.timeout),
                overtakes=values.get("schedule_max_overtakes", limits.overtakes),
            )
        )


def changed_config(config: EngineConfig, changed: Mapping[str, Any]) -> EngineConfig:
    """The config of an engine that is started with the dials where they stand."""
    return msgspec.structs.replace(config, **changed) if changed else config
