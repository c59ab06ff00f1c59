"""Dialects: which are served (`--apis`), and those of plugins, each route kept apart from the rest of the server.

An exception in a plugin's route is a 500 that names the plugin, counted; after some in a row that route alone answers
503, and is tried again REST seconds later.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from sglcore.contracts.routes import Problem, RouteContext, RouteDoc, RouteEntry
from sglcore.errors import ConfigError, PluginError, RequestError, SglcoreError
from sglcore.isolation import Breaker, Faults
from sglcore.plugins import Plugins
from sglcore.registry import Entry
from sglcore.server.auth import TIERS
from sglcore.server.body import ClientGone
from sglcore.server.errors import describe, refusal
from sglcore.server.http_service import ByteStream
from sglcore.server_config import ServerConfig

BUILT_IN = ("openai", "native")
REST = 30.0  # seconds after which a route that was taken out is tried again
ON_PURPOSE = (SglcoreError, HTTPException, ClientGone, ClientDisconnect)  # answers, not failures


def check_apis(config: ServerConfig, plugins: Plugins) -> None:
    """Raises ConfigError for a name in `--apis` that no dialect has, PluginError for one that cannot be used."""
    there = plugins.registry("routes")
    own = next((there.entry(name) for name in BUILT_IN if name in there), None)
    if own is not None:
        raise PluginError(
            f"{own.distribution} {own.version} registers the dialect {own.name!r}, which is sglcore's own.",
            remedy=f"Start with --no-plugin {own.distribution}.",
        )
    wanted = config.dialects
    known = {*BUILT_IN, *there, *(r.entry.name for r in plugins.refused if r.entry.family == "routes")}
    unknown = [name for name in wanted if name not in known]
    if unknown or (config.apis is not None and not wanted):
        raise ConfigError(
            f"--apis {config.apis!r}: there is no dialect {unknown[0] if unknown else ''!r}.",
            remedy=f"There are: {', '.join([*BUILT_IN, *sorted(known - {*BUILT_IN})])}.",
        )
    for name in wanted:
        if name not in BUILT_IN:
            there.spec(name)


def plugin_routes(plugins: Plugins, context: RouteContext) -> list[RouteEntry]:
    """The routes of the plugins' dialects that are served. Raises PluginError for a list that cannot be used."""
    registry = plugins.registry("routes")
    found = []
    for spec in registry.specs():
        if context.config.serves(spec.name):
            owner = registry.entry(spec.name)
            made = registry.factory(spec.name)(context)
            found += [contained(route, owner, plugins.faults) for route in _checked(made, owner)]
    return found


def contained(route: RouteEntry, owner: Entry, faults: Faults) -> RouteEntry:
    """The same route, its exceptions counted and told in the server's error shape."""
    where = f"{'/'.join(route.methods)} {route.path}"
    breaker = faults.breaker(owner.distribution, where, rest=REST)
    return dataclasses.replace(route, endpoint=PluginEndpoint(route.endpoint, breaker, route.on_error))


def owner_of(route: RouteEntry) -> str:
    """The distribution that a route is from."""
    return route.endpoint.breaker.plugin if isinstance(route.endpoint, PluginEndpoint) else "sglcore"


class PluginEndpoint:
    """A plugin's endpoint behind a breaker. on_error: the route's own."""

    def __init__(self, endpoint: Any, breaker: Breaker, on_error: Callable[[Problem], Any] | None = None) -> None:
        self._endpoint = self.__wrapped__ = endpoint
        self._on_error = on_error
        self.breaker = breaker

    async def __call__(self, request: Request) -> Response:
        if self.breaker.open:
            text = f"{self.breaker.plugin} has failed in this route several times in a row; it is tried again later."
            raise RequestError(text, status=503, code="plugin_unavailable")
        try:
            response = await self._endpoint(request)
            if not isinstance(response, Response):
                raise TypeError(f"the endpoint returned a {type(response).__name__}, not a Response")
        except ON_PURPOSE:
            self.breaker.succeeded()
            raise
        except Exception as error:
            self.breaker.failed(error)
            raise self._error() from error
        if isinstance(response, ByteStream):
            response.seen = self._seen
        elif hasattr(response, "body_iterator"):
            events = str(response.headers.get("content-type", "")).startswith("text/event-stream")
            response.body_iterator = self._body(response.body_iterator, events)
        else:
            self.breaker.succeeded()
        return response

    async def _body(self, chunks: AsyncIterator[Any], events: bool) -> AsyncIterator[Any]:
        """A stream whose failure is counted and, among events, told as one; else the connection ends."""
        try:
            async for chunk in chunks:
                yield chunk
            self._seen(None)
        except Exception as error:
            told = self._seen(error) or error
            if not events:
                raise told from None
            yield b"data: " + self._written(told) + b"\n\n"

    def _seen(self, error: Exception | None) -> Exception | None:
        """Count how a stream ended; what to tell of it."""
        if error is None or isinstance(error, ON_PURPOSE):
            self.breaker.succeeded()
            return error
        self.breaker.failed(error)
        return self._error()

    def _written(self, error: Exception) -> bytes:
        if self._on_error is None:
            return msgspec.json.encode(describe(error)[1])
        return bytes(refusal(error, self._on_error).body)

    def _error(self) -> RequestError:
        text = f"The plugin {self.breaker.plugin} failed while answering; the server's log has the cause."
        return RequestError(text, status=500, code="plugin_error")


def _checked(made: Any, owner: Entry) -> list[RouteEntry]:
    problem = "" if isinstance(made, list | tuple) else f"made a {type(made).__name__}, not a list of RouteEntry"
    problem = problem or next((p for route in made if (p := _problem(route))), "")
    if problem:
        raise PluginError(f"{owner}: its factory {problem}.", remedy=f"Start with --no-plugin {owner.distribution}.")
    return list(made)


def _problem(route: Any) -> str:
    """What is wrong with a route, continuing "its factory"; "" if nothing is."""
    if not isinstance(route, RouteEntry):
        return f"made a list with a {type(route).__name__} in it, not a RouteEntry"
    if not isinstance(route.path, str) or not route.path.startswith("/"):
        return f"made a route with the path {route.path!r}, which does not begin with /"
    methods = route.methods
    if (
        not isinstance(methods, tuple | list)
        or not methods
        or not all(isinstance(m, str) and m.isupper() for m in methods)
    ):
        return f"made the route {route.path} with the methods {methods!r}, not a tuple of names like GET"
    if route.on_error is not None and not callable(route.on_error):
        return f"made the route {route.path} with an on_error that cannot be called"
    if not isinstance(route.doc, RouteDoc | None):
        return f"made the route {route.path} with a doc that is no RouteDoc"
    if route.tier not in TIERS:
        return f"made the route {route.path} with the access tier {route.tier!r}, not one of {', '.join(TIERS)}"
    call = route.endpoint if inspect.isfunction(route.endpoint) else getattr(route.endpoint, "__call__", None)  # noqa: B004
    if not inspect.iscoroutinefunction(call) and not inspect.iscoroutinefunction(route.endpoint):
        return f"made the route {route.path} with an endpoint that is not an async function"
    return ""


def _words(apis: str) -> list[str]:
    return [word.strip() for word in apis.split(",") if word.strip()]
