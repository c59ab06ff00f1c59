"""The endpoints."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from sglcore.contracts.routes import Problem, RouteContext, RouteDoc, RouteEntry
from sglcore.errors import RequestError
from sglcore_plugin_ollama import docs
from sglcore_plugin_ollama.answer import Answer, line, loaded
from sglcore_plugin_ollama.ask import Ask, begin, chat_ask, generate_ask, model_of
from sglcore_plugin_ollama.fields import flag
from sglcore_plugin_ollama.library import VERSION, Library, check_model

NDJSON = "application/x-ndjson"
BANNER = "Ollama is running"  # what clients look for at `/`

Endpoint = Callable[[Request], Awaitable[Response]]


def routes(context: RouteContext) -> list[RouteEntry]:
    """The dialect over one server."""
    chat, generate = (writer(context, understand) for understand in (chat_ask, generate_ask))
    entries = [_post("/api/chat", chat, docs.CHAT), _post("/api/generate", generate, docs.GENERATE)]
    return entries + library_routes(context) + refused_routes(context) + banner_routes(context)


def writer(context: RouteContext, understand: Callable[[dict[str, Any], RouteContext], Ask]) -> Endpoint:
    """/api/chat or /api/generate."""
    http, is_chat = context.http, understand is chat_ask

    async def endpoint(request: Request) -> Response:
        ask = understand(await http.read_object(request), context)
        if ask.body is None:
            check_model(ask.model, context.model)
            return _answered(loaded(ask.model, chat=is_chat), ask.stream)
        answer = Answer(ask.model, chat=is_chat, thoughts=ask.thoughts)
        turn = await begin(context, ask)
        if not ask.stream:
            return _json(await http.while_connected(request, answer.whole(turn)))
        lines = answer.lines(turn)
        response: Response = http.stream(lines, media_type=NDJSON, on_error=_error_line, on_early_error=on_error)
        return response

    return endpoint


def library_routes(context: RouteContext) -> list[RouteEntry]:
    """What there is: tags, show, ps, version, and pull, which finds the model served in place."""
    library, http = Library(context), context.http

    async def tags(_: Request) -> Response:
        return _json(library.tags())

    async def running(_: Request) -> Response:
        return _json(library.running())

    async def version(_: Request) -> Response:
        return _json({"version": VERSION})

    async def show(request: Request) -> Response:
        check_model(model_of(await http.read_object(request)), context.model)
        return _json(library.show())

    async def pull(request: Request) -> Response:
        body = await http.read_object(request)
        stream = flag(body, "stream", True)
        check_model(model_of(body), context.model)
        return _answered({"status": "success"}, stream)

    gets = (
        ("/api/tags", tags, docs.TAGS),
        ("/api/ps", running, docs.RUNNING),
        ("/api/version", version, docs.VERSION),
    )
    return [RouteEntry(path, call, ("GET",), "user", on_error=on_error, doc=doc) for path, call, doc in gets] + [
        _post("/api/show", show, docs.SHOW),
        _post("/api/pull", pull, docs.PULL),
    ]


def refused_routes(context: RouteContext) -> list[RouteEntry]:
    """What a server with one fixed text model cannot do, told plainly."""
    fixed = "This server has one model, chosen when it was started, and changes nothing about it."
    no_vectors = "The model that is served writes text; it gives no embeddings."

    def refusing(path: str, message: str, method: str = "POST") -> RouteEntry:
        async def endpoint(request: Request) -> Response:
            if method == "POST":
                await context.http.read_object(request)
            raise RequestError(message, code="unsupported_operation")

        return RouteEntry(path, endpoint, (method,), "user", on_error=on_error, doc=docs.REFUSED)

    changes = [refusing(f"/api/{name}", fixed) for name in ("create", "copy", "push")]
    vectors = [refusing(path, no_vectors) for path in ("/api/embed", "/api/embeddings")]
    return [*changes, refusing("/api/delete", fixed, "DELETE"), *vectors]


def banner_routes(context: RouteContext) -> list[RouteEntry]:
    """HEAD / tells clients that somebody is there; GET / is the page's, where there is one."""

    async def banner(_: Request) -> Response:
        return PlainTextResponse(BANNER)

    methods = ("GET", "HEAD") if context.config.no_ui else ("HEAD",)
    return [RouteEntry("/", banner, methods, "public", on_error=on_error, doc=docs.BANNER)]


def on_error(problem: Problem) -> Response:
    """{"error": "..."}."""
    return _json({"error": problem.message}, problem.status)


def _error_line(problem: Problem) -> bytes:
    return line({"error": problem.message})


def _answered(content: dict[str, Any], stream: bool) -> Response:
    """An answer that is known at once: a stream of one line, or an object."""
    return Response(line(content), media_type=NDJSON) if stream else _json(content)


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def _post(path: str, endpoint: Endpoint, doc: RouteDoc) -> RouteEntry:
    return RouteEntry(path, endpoint, ("POST",), "user", on_error=on_error, doc=doc)
