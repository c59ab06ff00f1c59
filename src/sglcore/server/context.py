"""What the HTTP face is built from."""

from __future__ import annotations

from dataclasses import dataclass, field

from sglcore.contracts.logits_processors import LogitsProcessorSpec
from sglcore.contracts.routes import ModelInfo
from sglcore.contracts.services import ChatService, EngineClient, HttpService, TextService
from sglcore.isolation import Faults
from sglcore.registry import Registry
from sglcore.server.counts import Peers
from sglcore.server.face import Face
from sglcore.server.http_service import Http
from sglcore.server.metrics import ServerMetrics
from sglcore.server.parse_offline import OfflineParsers
from sglcore.server.parsers import AnswerParsers
from sglcore.server.remote_media import RemoteMedia
from sglcore.server.response_store import ResponseStore
from sglcore.server.settings import Settings
from sglcore.server.turns import Turns
from sglcore.server.vitals import Vitals
from sglcore.server_config import ServerConfig


@dataclass(slots=True)
class ServerContext:
    """The plain RouteContext: one per API process, not changed once the app is built.

    faults: what plugins have got wrong in this process. plugin_plan: digest of the plan it runs with.
    vitals: None stands for those of `engine` alone. processors: those that requests may name; None for none.
    peers: the other API workers; None where this process is the only one. metrics: None for fresh ones.
    responses: the way to those that are kept; None for this process's own. settings: None for this process's own.
    offline_parsers: those that requests may name; None for those of the flags alone.
    `face`, and the services built on it, are made when they are first asked for.
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
    responses: ResponseStore | None = None
    settings: Settings | None = None
    offline_parsers: OfflineParsers | None = None
    _face: Face | None = field(default=None, init=False, repr=False)
    _http: Http | None = field(default=None, init=False, repr=False)

    @property
    def face(self) -> Face:
        """What the dialects of this process share."""
        if self._face is None:
            self._face = Face.of(self)
        return self._face

    @property
    def chat(self) -> ChatService:
        """See RouteContext."""
        return Turns(self.face)

    @property
    def http(self) -> HttpService:
        """See RouteContext."""
        if self._http is None:
            config = self.config
            self._http = Http(RemoteMedia(config.allowed_media_domains, private=config.allow_private_media))
        return self._http
