"""What the dialects of one API process share."""

from __future__ import annotations

from dataclasses import dataclass

from sglcore.contracts.routes import ModelInfo, RouteContext
from sglcore.server.generation import Generation
from sglcore.server.metrics import ServerMetrics
from sglcore.server.prompts import Prompts
from sglcore.server.tokens import TokenNames


@dataclass(frozen=True)
class Face:
    """The context, and the parts built once around it."""

    context: RouteContext
    generation: Generation
    metrics: ServerMetrics
    prompts: Prompts
    names: TokenNames

    @classmethod
    def of(cls, context: RouteContext, metrics: ServerMetrics) -> Face:
        return cls(context, Generation(context, metrics), metrics, Prompts(context), TokenNames(context.text))

    @property
    def model(self) -> ModelInfo:
        return self.context.model


def namespace(*parts: str) -> str:
    """One cache namespace from several separators; "" where none is set. Different parts never give the same."""
    return "".join(f"{len(part)}:{part}" for part in parts) if any(parts) else ""
