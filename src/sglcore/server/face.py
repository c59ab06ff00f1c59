"""What the dialects of one API process share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sglcore.contracts.logits_processors import LogitsProcessorSpec
from sglcore.contracts.routes import ModelInfo, RouteContext
from sglcore.engine.processor_check import check_processor
from sglcore.isolation import Faults
from sglcore.registry import Registry
from sglcore.server.completion_templates import CompletionTemplate, completion_template
from sglcore.server.counts import Peers
from sglcore.server.generation import Generation
from sglcore.server.metrics import ServerMetrics
from sglcore.server.observed import Observed
from sglcore.server.parse_offline import OfflineParsers
from sglcore.server.parsers import AnswerParsers
from sglcore.server.prompts import Prompts
from sglcore.server.settings import Settings
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
    settings: Settings
    offline_parsers: OfflineParsers
    observed: Observed
    peers: Peers | None = None
    fim: CompletionTemplate | None = None  # how `suffix` is asked for

    @classmethod
    def of(cls, context: RouteContext) -> Face:
        """The parts that `context` has, fresh ones in place of those it lacks."""
        # A plain RouteContext, as a dialect's own tests may make it, has neither parsers nor a record of faults.
        faults = getattr(context, "faults", None) or Faults()
        metrics = getattr(context, "metrics", None) or ServerMetrics(context.model.name, faults, context.config)
        parsers = getattr(context, "parsers", None) or AnswerParsers()
        names = TokenNames(context.text)
        vitals = getattr(context, "vitals", None) or Vitals(context.engine)
        processors = getattr(context, "processors", None) or Registry("logits_processors", [])
        peers = getattr(context, "peers", None)
        settings = getattr(context, "settings", None) or Settings.alone(context.config)
        offline = getattr(context, "offline_parsers", None) or OfflineParsers(parsers)
        fim = completion_template(context.config.completion_template)
        observed = Observed(context, settings)
        generation, prompts = Generation(context, metrics, observed.observers), Prompts(context)
        kept = (settings, offline, observed, peers, fim)
        return cls(context, generation, metrics, prompts, names, parsers, vitals, processors, *kept)

    def check_processor(self, name: str | None, arguments: Mapping[str, Any] | None, prefix: str = "") -> None:
        """Raises RequestError where no logits processor `name` can be used with these arguments; `prefix` stands before
        the arguments' field."""
        check_processor(self.processors, name or "", arguments or {}, prefix)

    @property
    def model(self) -> ModelInfo:
        return self.context.model
