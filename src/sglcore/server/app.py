"""The application: route entries of all dialects behind one guard."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from sglcore.contracts.routes import RouteContext, RouteEntry
from sglcore.errors import ConfigError
from sglcore.isolation import Faults
from sglcore.server.access_log import Application
from sglcore.server.auth import TIERS, Keys
from sglcore.server.body import ClientGone
from sglcore.server.chat import chat_routes
from sglcore.server.classify import classify_routes
from sglcore.server.completions import completion_routes
from sglcore.server.control import health_routes, info_routes
from sglcore.server.cors import allow_origins, check_site
from sglcore.server.embeddings import embedding_routes
from sglcore.server.errors import CLIENT_GONE, on_exception, refusal
from sglcore.server.face import Face
from sglcore.server.headers import SafeHeaders
from sglcore.server.http_service import ByteStream
from sglcore.server.loads import load_routes
from sglcore.server.log_routes import log_routes
from sglcore.server.metrics import metrics_routes
from sglcore.server.native import native_routes
from sglcore.server.native_kinds import kind_routes
from sglcore.server.openai import model_routes
from sglcore.server.openapi import openapi_routes
from sglcore.server.parse_offline_routes import parse_routes
from sglcore.server.plugin_routes import owner_of
from sglcore.server.profile import profile_routes
from sglcore.server.rerank import rerank_routes
from sglcore.server.responses import response_routes
from sglcore.server.scoring import score_routes
from sglcore.server.sessions import session_routes
from sglcore.server.settings_routes import settings_routes
from sglcore.server.steering import admin_routes
from sglcore.server.tokenization import tokenization_routes
from sglcore.server.ui.page import ui_routes
from sglcore.server.vitals import Vitals, vital_routes

Endpoint = Callable[[Request], Awaitable[Response]]


def build_app(context: RouteContext, extra_routes: Sequence[RouteEntry] = ()) -> Starlette:
    """The HTTP face over an engine. `extra_routes` are those of dialect plugins.

    Raises ConfigError for a route without a known tier, or for two routes with the same path and method.
    """
    vitals = getattr(context, "vitals", None) or Vitals(context.engine)
    face = _face_of(context)
    entries = [*core_routes(context, face), *extra_routes]
    entries += openapi_routes(entries, context.config)
    _check_entries(entries)
    keys = Keys(context.config.api_key, context.config.admin_api_key)
    origins = context.config.cors_allow_origins
    routes = [Route(e.path, _guarded(e, keys, vitals, origins), methods=list(e.methods)) for e in entries]
    app = Application(routes=routes, exception_handlers={HTTPException: on_exception, Exception: on_exception})
    app.observe(context.config, face.metrics, face.observed)
    allow_origins(app, origins)
    app.add_middleware(SafeHeaders)
    app.state.context = context
    app.state.entries = entries
    return app


def _face_of(context: RouteContext) -> Face:
    face: Face | None = getattr(context, "face", None)
    return face or Face.of(context)  # a plain RouteContext, as a dialect's own tests may make it, has none


def core_routes(context: RouteContext, face: Face | None = None) -> list[RouteEntry]:
    """Every route of the core's own: the dialects that `--apis` lets in, and what is always there."""
    # A plain RouteContext, as a dialect's own tests may make it, has no record of faults and no plan.
    faults, plan = getattr(context, "faults", None) or Faults(), getattr(context, "plugin_plan", "")
    face = face or _face_of(context)
    metrics = face.metrics
    entries: list[RouteEntry] = []
    if context.config.serves("openai"):
        entries += [*model_routes(face), *chat_routes(face), *completion_routes(face), *response_routes(face)]
        entries += [*score_routes(face), *rerank_routes(face), *embedding_routes(face), *classify_routes(face)]
    if context.config.serves("native"):
        entries += [*native_routes(face), *kind_routes(face), *session_routes(face), *tokenization_routes(face)]
        entries += parse_routes(face)
    entries += [*health_routes(face), *vital_routes(face.vitals), *info_routes(face, faults, plan), *admin_routes(face)]
    entries += [*settings_routes(face), *log_routes(face), *profile_routes(face), *load_routes(face)]
    entries += ui_routes(face)
    return entries + (
        metrics_routes(metrics, context.engine, face.peers, face.vitals.facts) if context.config.enable_metrics else []
    )


def _check_entries(entries: list[RouteEntry]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for entry in entries:
        if entry.tier not in TIERS:
            raise ConfigError(
                f"Route {entry.path} has the access tier {entry.tier!r}.", remedy="Use public, user or admin."
            )
        for method in entry.methods:
            if (entry.path, method) in seen:
                raise ConfigError(
                    f"Two routes answer {method} {entry.path}, of {seen[entry.path, method]} and {owner_of(entry)}.",
                    remedy=f"Start with --no-plugin {owner_of(entry)}.",
                )
            seen[entry.path, method] = owner_of(entry)


def _guarded(entry: RouteEntry, keys: Keys, vitals: Vitals, origins: Sequence[str]) -> Endpoint:
    """The endpoint behind its tier; whatever it raises becomes an error body of its dialect."""

    async def endpoint(request: Request) -> Response:
        try:
            keys.check(request, entry.tier, entry.key_header)
            if entry.tier != "public":
                check_site(request, origins)
            if entry.tier == "user" and request.method == "POST":
                vitals.check_open()
            response: Response = await entry.endpoint(request)
            if isinstance(response, ByteStream):
                response.on_early_error = response.on_early_error or entry.on_error
            return response
        except (ClientGone, ClientDisconnect):
            return Response(status_code=CLIENT_GONE)
        except Exception as error:
            return refusal(error, entry.on_error)

    endpoint.on_error = entry.on_error  # type: ignore[attr-defined]  # for `on_exception`: a wrong method
    return endpoint
