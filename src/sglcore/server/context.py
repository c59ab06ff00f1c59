"""What the HTTP face is built from."""

from __future__ import annotations

from dataclasses import dataclass, field

from sglcore.config import ServerConfig
from sglcore.contracts.logits_processors import LogitsProcessorSpec
from sglcore.contracts.routes import ModelInfo
from sglcore.contracts.services import EngineClient, TextService
from sglcore.isolation import Faults
from sglcore.registry import Registry
from sglcore.server.counts import Peers
from sglcore.server.metrics import ServerMetrics
from sglcore.server.parsers import AnswerParsers
from sglcore.server.vitals import Vitals


@dataclass(slots=True)
class ServerContext:
    """The plain RouteContext: one per API process, not changed once the app is built.

    faults: what plugins have got wrong in this process. plugin_plan: digest of the plan it runs with.
    vitals: None stands for those of `engine` alone. processors: those that requests may name; None for none.
    peers: the other API workers; None where this process is the only one. metrics: None for fresh ones.
    """

    config: ServerConfig
    engine: EngineClient
    text: TextService | None
    model: ModelInfo
    parsers: AnswerParsers = field(default_factory=AnswerParsers)
    faults: Faults = field(default_factory=Faults)
    plugin_plan: str = ""
    vitals: Vitals | None = None
    processors: Registry[LogitsProcessorSpec] | None = None
    peers: Peers | None = None
    metrics: ServerMetrics | None = None
