"""What may change while a server runs: one owner in the parent process, and a copy in each API process.

A change is answered when every API process has taken it, so that whichever answers next answers with it. A process
that starts later is told before it serves.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from sglcore.config import EngineConfig
from sglcore.native.dials import changed_config
from sglcore.server_config import ServerConfig


class Live(msgspec.Struct, frozen=True):
    """engine: changed fields of EngineConfig, by name. freezes: how often /freeze_gc was called. logging: what
    /configure_logging has changed."""

    weight_version: str
    engine: dict[str, Any] = {}
    freezes: int = 0
    logging: dict[str, Any] = {}

    @classmethod
    def of(cls, config: ServerConfig) -> Live:
        """As a server starts."""
        return cls(config.weight_version)


class SettingsOwner:
    """The parent's. `tell`: gives them to every API process, and returns when these have them."""

    def __init__(self, config: ServerConfig) -> None:
        self.now = Live.of(config)
        self.tell: Callable[[Live], Awaitable[None]] | None = None

    async def change(self, fields: dict[str, Any]) -> None:
        """Fields of Live; `engine` and `logging` are merged, `freezes` is added."""
        merged = dict(fields)
        merged["engine"] = self.now.engine | fields.get("engine", {})
        merged["logging"] = self.now.logging | fields.get("logging", {})
        merged["freezes"] = self.now.freezes + fields.get("freezes", 0)
        self.now = msgspec.convert(msgspec.structs.asdict(self.now) | merged, Live)
        if self.tell is not None:
            await self.tell(self.now)

    def engine_config(self, config: EngineConfig) -> EngineConfig:
        """The config of an engine that is started now."""
        return changed_config(config, self.now.engine)


class Settings:
    """One API process's copy. ask_owner: passes a change on to the owner."""

    def __init__(self, now: Live, ask_owner: Callable[[dict[str, Any]], Awaitable[None]] | None = None) -> None:
        self.now = now
        self._ask_owner = ask_owner
        self._listeners: list[Callable[[Live], None]] = []

    @classmethod
    def alone(cls, config: ServerConfig, owner: SettingsOwner | None = None) -> Settings:
        """Those of the only API process, its owner beside it."""
        owner = owner or SettingsOwner(config)
        settings = cls(owner.now, owner.change)
        owner.tell = settings.taken
        return settings

    async def change(self, **fields: Any) -> None:
        """Fields as `SettingsOwner.change` takes them; returns when all processes have them. Raises EngineDead."""
        if self._ask_owner is not None:
            await self._ask_owner(fields)

    def listen(self, heard: Callable[[Live], None]) -> None:
        """Call `heard` with each change from now on."""
        self._listeners.append(heard)

    def take(self, now: Live) -> None:
        """The owner's word."""
        before, self.now = self.now, now
        if now.freezes > before.freezes:
            gc.collect()
            gc.freeze()
        for heard in self._listeners:
            heard(now)

    async def taken(self, now: Live) -> None:
        """`take`, as an owner in the same process tells it."""
        self.take(now)
