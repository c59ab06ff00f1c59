"""HTTP dialects as plugins: route functions, their access tier, and what they are handed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from sglcore.contracts.services import ChatService, EngineClient, HttpService, TextService
from sglcore.contracts.spec import Spec
from sglcore.server_config import ServerConfig


@dataclass(frozen=True, kw_only=True)
class RouteSpec(Spec):
    """A dialect. `factory(context: RouteContext) -> list[RouteEntry]`, called once per API process before it listens.

    It runs while the engine process is still loading, so it asks the engine nothing; its endpoints may.
    """


@dataclass(frozen=True)
class RouteEntry:
    """One route, called in the API process's event loop.

    path: as Starlette writes it, `/api/{name}`. Two routes with the same path and method are a start-up error.
    endpoint: `async (Request) -> Response`. A RequestError it raises becomes the client's error; anything else is
        logged and becomes a 500 without details. It must not block the loop.
    methods: HTTP methods, in capitals.
    tier: "public" needs no key, "user" the API key, "admin" the admin key (or the API key where no
        admin key is set). There is no default: a route without a tier cannot be built.
    on_error: writes whatever was raised for this route (a wrong key, a malformed body, the endpoint's own RequestError)
        in the dialect's shape; None: as OpenAI's errors. It must not raise.
    key_header: a header that may hold the key as well, bare, where the dialect's clients send one, as `x-api-key`.
    doc: what `/openapi.json` says of the route; None: it is left out there.
    """

    path: str
    endpoint: Callable[..., Any]
    methods: tuple[str, ...]
    tier: Literal["public", "user", "admin"]
    on_error: Callable[[Problem], Any] | None = None  # -> Starlette Response
    key_header: str = ""
    doc: RouteDoc | None = None


@dataclass(frozen=True, kw_only=True)
class RouteDoc:
    """What the API's document (OpenAPI 3.2) says of a route, beside what its RouteEntry tells.

    A *shape* is a type that msgspec can describe (a Struct, `list[int]`), a JSON schema as a dict, or a tuple of such
    for one of them. Types must be importable without torch. Statuses that follow from the entry (a wrong key, a
    malformed body, an unknown path) are added by themselves.
    summary: one line without a full stop; "" for the first line of the endpoint's docstring. description: Markdown.
    tag: the heading that it stands under, as the dialect's name. body: shape of the JSON body, None where none is read.
    body_optional: it may be left out. example: a body that is answered with success by any model. query: a Struct whose
        fields are the query's parameters.
    answers: by status, what a media type holds; {} for an empty body. Of text/event-stream and application/x-ndjson it
        is the shape of one event's data, or of one line; data that is no JSON but a fixed text is {"const": text}.
    refusals: statuses of errors that the endpoint raises itself. error: shape of error bodies; None: as OpenAI's.
    """

    summary: str = ""
    description: str = ""
    tag: str = ""
    body: Any = None
    body_optional: bool = False
    example: Any = None
    query: Any = None
    answers: Mapping[int, Mapping[str, Any]] = field(default_factory=lambda: {200: {}})
    refusals: tuple[int, ...] = ()
    error: Any = None


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A failure as a client is told of it: nothing in it is secret.

    status: HTTP status, 4xx or 5xx. kind: OpenAI's word for it, as `invalid_request_error`. param, code: as in
    RequestError. retry_after: seconds, 0 where nothing is known.
    """

    status: int
    message: str
    kind: str = ""
    param: str | None = None
    code: str | None = None
    retry_after: int = 0


@dataclass(frozen=True)
class ModelInfo:
    """What the API side knows of the served model."""

    name: str  # as clients name it
    path: str  # as it was given to the command
    architectures: tuple[str, ...]  # from config.json
    context_length: int  # most tokens, prompt and answer together
    vocab_size: int  # ids are below it
    created: int  # unix seconds
    sampling_defaults: dict[str, Any]  # from generation_config.json, native names
    model_type: str = ""  # from config.json


class RouteContext(Protocol):
    """Everything a dialect may use. One per API process; does not change."""

    config: ServerConfig  # with keys in it: never shown
    engine: EngineClient  # the way to generate
    text: TextService | None  # None under --skip-tokenizer-init
    model: ModelInfo  # the one that is served

    @property
    def chat(self) -> ChatService:
        """Whole turns: template, sampling, tools, reasoning."""
        ...

    @property
    def http(self) -> HttpService:
        """Bodies in, streams out."""
        ...
