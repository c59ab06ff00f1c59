"""HTTP dialects as plugins: route functions, their access tier, and what they are handed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from sglcore.config import ServerConfig
from sglcore.contracts.services import EngineClient, TextService
from sglcore.contracts.spec import Spec


@dataclass(frozen=True, kw_only=True)
class RouteSpec(Spec):
    """A dialect; `factory(context: RouteContext) -> list[RouteEntry]`, called once per API process."""


@dataclass(frozen=True)
class RouteEntry:
    """One route. `endpoint` is a Starlette endpoint: `async (Request) -> Response`.

    tier "public" needs no key, "user" the API key, "admin" the admin key (or the API key where no
    admin key is set). There is no default: a route without a tier cannot be built.
    """

    path: str
    endpoint: Callable[..., Any]
    methods: tuple[str, ...]
    tier: Literal["public", "user", "admin"]


@dataclass(frozen=True)
class ModelInfo:
    """What the API side knows of the served model."""

    name: str
    path: str
    architectures: tuple[str, ...]
    context_length: int
    vocab_size: int
    created: int  # unix seconds
    sampling_defaults: dict[str, Any]  # from generation_config.json, native names


class RouteContext(Protocol):
    """Everything a dialect may use."""

    config: ServerConfig
    engine: EngineClient
    text: TextService | None  # None under --skip-tokenizer-init
    model: ModelInfo
