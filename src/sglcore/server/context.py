"""What the HTTP face is built from."""

from __future__ import annotations

from dataclasses import dataclass

from sglcore.config import ServerConfig
from sglcore.contracts.routes import ModelInfo
from sglcore.contracts.services import EngineClient, TextService


@dataclass(slots=True)
class ServerContext:
    """The plain RouteContext: one per API process, not changed once the app is built."""

    config: ServerConfig
    engine: EngineClient
    text: TextService | None
    model: ModelInfo
