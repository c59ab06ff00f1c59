"""Every pluggy hook, by phase of life. Control plane only: once per process, engine or request, never per token.

A hook module is registered in entry-point group `sglcore.hooks.v1`; importing it takes no torch and a
few milliseconds. An implementation may take fewer arguments than the hook offers, so hooks can grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from sglcore.config import EngineConfig
    from sglcore.options import Option
    from sglcore.request import GenerateRequest

hookspec = pluggy.HookspecMarker("sglcore")

# -- once per process --


@hookspec
def add_options() -> list[Option]:
    """Flags a plugin contributes to `serve` and the offline commands.

    Called in the CLI process before arguments are parsed. Values arrive in `EngineConfig.extras[option.name]`.
    """


# -- once per engine --


@hookspec
def adjust_config(config: EngineConfig) -> Mapping[str, Any] | None:
    """Fields to change before anything is built, as {field: value}; None for no change.

    Called once in the parent process, after parsing. A flag the user gave is not overridden:
    trying to is a start-up error that names the plugin.
    """


@hookspec(firstresult=True)
def choose_platform(available: list[str]) -> str | None:
    """Name the platform for `--device auto`, out of those whose hardware is there; None to leave it to priority.

    Called once in the engine process and, with ranks, in each of theirs; and by `sglcore plugins explain`. Must say
    the same each time. A name that was not offered is an error.
    """


@hookspec(firstresult=True)
def choose_attention(fitting: list[str]) -> str | None:
    """Name the attention backend out of those that fit all constraints; None to leave it to priority.

    Called as `choose_platform`, only where the user named none.
    """


@hookspec
def on_engine_start(info: Mapping[str, Any]) -> None:
    """The engine is ready; `info` is what `/server_info` shows of it. Called in the engine process."""


@hookspec
def on_engine_stop(info: Mapping[str, Any]) -> None:
    """The engine is about to close. Called in the engine process, once, also after an error."""


# -- while running --


@hookspec
def admit_request(request: GenerateRequest) -> None:
    """A request is about to enter the scheduler; raise RequestError to refuse it.

    Called in the engine process, outside the step. Must be quick: it delays the next step.
    """


@hookspec
def on_step(stats: Mapping[str, Any]) -> None:
    """A snapshot of the engine's counters, at most every 100 ms, between steps."""


@hookspec
def on_request_finished(summary: Mapping[str, Any]) -> None:
    """A branch has finished: rid, branch, finish type, prompt_tokens, cached_tokens. Engine process, between steps."""
