"""What the dialects of one API process share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sglcore.contracts.logits_processors import LogitsProcessorSpec
from sglcore.contracts.routes import ModelInfo, RouteContext
from sglcore.engine.processor_check import check_processor
from sglcore.registry import Registry
from sglcore.server.counts import Peers
from sglcore.server.generation import Generation
from sglcore.server.metrics import ServerMetrics
from sglcore.server.parsers import AnswerParsers
from sglcore.server.prompts import Prompts
from sglcore.server.tokens import TokenNames
from sglcore.server.vitals import Vitals


@dataclass(frozen=True)
class Face:
    """The context, and the parts built once around it."""

    context: RouteContext
    generation: Generation
    metrics: ServerMetrics
    prompts: Prompts
    names: TokenNames
    parsers: AnswerParsers
    vitals: Vitals
    processors: Registry[LogitsProcessorSpec]
    peers: Peers | None = None

    @classmethod
    def of(cls, context: RouteContext, metrics: ServerMetrics) -> Face:
        # A plain RouteContext, as a dialect's own tests may make it, has no parsers.
        parsers = getattr(context, "parsers", None) or AnswerParsers()
        names = TokenNames(context.text)
        vitals = getattr(context, "vitals", None) or Vitals(context.engine)
        processors = getattr(context, "processors", None) or Registry("logits_processors", [])
        generation, prompts = Generation(context, metrics), Prompts(context)
        peers = getattr(context, "peers", None)
        return cls(context, generation, metrics, prompts, names, parsers, vitals, processors, peers)

    def check_processor(self, name: str | None, arguments: Mapping[str, Any] | None, prefix: str = "") -> None:
        """Raises RequestError where no logits processor `name` can be used with these arguments; `prefix` stands before
        the arguments' field."""
        check_processor(self.processors, name or "", arguments or {}, prefix)

    @property
    def model(self) -> ModelInfo:
        return self.context.model
