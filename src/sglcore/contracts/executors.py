"""Executors: where the engine's processes run. Provisional: drafted, not yet called.

The core decides which processes a deployment consists of (one engine per replica, its tensor- and pipeline-parallel
ranks) and what each is told; an executor finds places for them, starts them and says when one has ended: on this
machine, or on several by way of a cluster's own scheduler. Tensors never pass through it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from sglcore.contracts.spec import Spec


@dataclass(frozen=True, kw_only=True)
class ExecutorSpec(Spec):
    """A way to place processes. `factory(options: Mapping) -> Executor`, once in the parent process; `options` are the
    plugin's own settings, from its flags (`EngineConfig.extras`).

    multi_node: can place ranks on other machines.
    restarts: a place can be started again after its process has ended, so that the engine's requests can be replayed.
    platforms: names of platforms whose devices it can count and assign; empty means any.
    """

    multi_node: bool = False
    restarts: bool = False
    platforms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Role:
    """Which process of the deployment one is.

    kind: "engine" is rank 0 of a replica with its scheduler; "rank" is any other rank of one.
    replica: data-parallel replica, from 0.
    rank: within its replica, from 0; tp_rank + tp_size * pp_rank.
    """

    kind: Literal["engine", "rank"]
    replica: int
    rank: int


@dataclass(frozen=True)
class Need:
    """What one process needs of its place.

    role: who it is.
    platform: name of the platform it computes on.
    devices: of that platform, for it alone; 0 where the platform has no devices to give out (a CPU).
    memory: bytes of host memory that it will take, roughly; 0 if unknown.
    """

    role: Role
    platform: str
    devices: int
    memory: int = 0


@dataclass(frozen=True)
class Place:
    """Where one process may run.

    role: who it is for.
    host: name or address at which the other processes reach it.
    devices: indices on that host.
    environment: variables that make those devices its own.
    """

    role: Role
    host: str
    devices: tuple[int, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StartOrder:
    """How to start a process; made by the core, the same whoever executes it.

    module: run as `python -m module` in the environment of the parent (same interpreter and packages).
    first: bytes for its standard input, which then stays open: its end tells the child that the parent is gone. Holds
        configuration and plugin plan, so it is not to be logged.
    environment: variables beside those of the place.
    """

    module: str
    first: bytes
    environment: Mapping[str, str] = field(default_factory=dict)


class RankProcess(Protocol):
    """A started process. Owned by the parent."""

    place: Place  # where it was started

    def read(self) -> bytes:
        """The next piece of its standard output; b"" when it has ended. Blocks; called by one thread of the parent."""
        ...

    def ended(self) -> str | None:
        """None while it runs, else how it ended, in a few words (exit code, signal, lost node). Any thread."""
        ...

    def stop(self, *, grace: float) -> None:
        """Close its standard input, wait `grace` seconds, then kill it and what it started. Idempotent."""
        ...


class Executor(Protocol):
    """Places and starts processes. Lives in the parent process (`serve`, `LLM`); its calls come from one thread."""

    def place(self, needs: Sequence[Need]) -> list[Place]:
        """A place for each, in their order. Ranks of one replica share a host where they fit.

        Raises ConfigError that says what is there and what is missing. Nothing is started yet; what is reserved is
        given back by `close`.
        """
        ...

    def start(self, place: Place, order: StartOrder) -> RankProcess:
        """Start one process, or start it again after its end where the spec says `restarts`. Raises EngineDead with the
        cause if it cannot."""
        ...

    def info(self) -> Mapping[str, Any]:
        """What `/server_info` shows: hosts and devices, no secrets."""
        ...

    def close(self) -> None:
        """Stop what still runs and give the places back. Idempotent; called also after a failed start."""
        ...
