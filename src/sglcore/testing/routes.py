"""RouteConformance: an HTTP dialect declares who may call it, and answers nonsense with a 4xx."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any, ClassVar

import pytest

from sglcore.contracts.routes import RouteContext, RouteEntry, RouteSpec
from sglcore.errors import ConfigError
from sglcore.server.app import build_app
from sglcore.testing.asgi import Answer, ask
from sglcore.testing.specs import SpecConformance
from sglcore.testing.stand_ins import stand_in_context

TIERS = ("public", "user", "admin")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
WITH_BODY = ("POST", "PUT", "PATCH")
# No JSON object at all.
GARBAGE = (b"", b"{", b"[]", b"null", b"7", b'"text"', b"\xff\xfe\x00", b'{"a": NaN}', b"[" * 20_000, b"a=b&c=d")
# An object whose known fields have impossible values.
NAMES = (
    "model",
    "prompt",
    "messages",
    "input",
    "text",
    "inputs",
    "input_ids",
    "stream",
    "n",
    "max_tokens",
    "max_new_tokens",
    "temperature",
    "top_p",
    "stop",
    "tools",
    "sampling_params",
    "response_format",
    "logprobs",
    "options",
    "name",
    "rid",
    "id",
    "system",
    "content",
)
WRONG: tuple[Any, ...] = (-1, 1e308, "x" * 3000, [], [[[]]], {}, {"": {}}, [None], True, "\u0000\ud83c")
STRANGE_PARTS = ("x", "..", "%00", "a%20b", "日本", "-1", "9" * 400)


class RouteConformance(SpecConformance):
    """Subclass with `spec`.

    examples: path -> the body of a POST that must succeed. bodiless: paths whose POST reads no body, so that
    anything goes there.
    """

    spec: ClassVar[RouteSpec]
    family = "routes"
    examples: ClassVar[dict[str, dict[str, Any]]] = {}
    bodiless: ClassVar[tuple[str, ...]] = ()

    def context(self, **options: Any) -> RouteContext:
        """What the factory is handed; options: `dead` for an engine that is gone, or fields of ServerConfig."""
        return stand_in_context(**options)

    def entries(self, context: RouteContext) -> list[RouteEntry]:
        """The plugin's routes."""
        found: list[RouteEntry] = self.spec.load()(context)
        return found

    def app(self, **options: Any) -> Any:
        """The server's application with these routes beside the core's own."""
        context = self.context(**options)
        return build_app(context, self.entries(context))

    def test_entries_are_well_formed(self) -> None:
        """RouteEntry each, with an absolute path, methods, a tier and an async endpoint."""
        entries = self.entries(self.context())
        assert isinstance(entries, list) and entries, f"the factory returned {entries!r:.200}, not a list of routes"
        for entry in entries:
            assert isinstance(entry, RouteEntry), f"{entry!r:.200} is no RouteEntry"
            told = f"route {entry.path!r}"
            assert isinstance(entry.path, str) and entry.path.startswith("/"), f"{told}: the path is not absolute"
            assert "//" not in entry.path and "?" not in entry.path, f"{told} is no plain path"
            assert entry.tier in TIERS, f"{told} has the access tier {entry.tier!r}, not one of {', '.join(TIERS)}"
            assert isinstance(entry.methods, tuple) and entry.methods, f"{told} has no methods"
            unknown = [method for method in entry.methods if method not in METHODS]
            assert not unknown, f"{told} has the method {unknown[0]!r}; methods are written in capitals"
            call = entry.endpoint if inspect.isroutine(entry.endpoint) else type(entry.endpoint).__call__
            assert inspect.iscoroutinefunction(call), f"{told}: the endpoint is not an async function"

    def test_no_route_clashes_with_the_core(self) -> None:
        """No path and method twice, neither among themselves nor with the core's dialects."""
        try:
            self.app()
        except ConfigError as error:
            raise AssertionError(f"the routes do not go together with the core's: {error}") from error

    def test_garbage_is_refused(self) -> None:
        """Where a body is read: what is no JSON object gives a 4xx whose body is JSON."""
        app = self.app()
        for path, method in self._asked(WITH_BODY):
            if path in self.bodiless:
                continue
            for body in GARBAGE:
                answer = ask(app, method, fill(path), body)
                told = f"{method} {path} with the body {body[:20]!r}"
                assert answer.status >= 400, f"{told} is answered with {answer.status}; it must be a 4xx"
                check_refusal(answer, told)

    def test_impossible_fields_give_no_server_error(self) -> None:
        """Objects whose fields have values of every wrong kind: 4xx in JSON, or success where a field is not read."""
        app = self.app()
        for path, method in self._asked(WITH_BODY):
            for name in (*NAMES, *self.examples.get(path, ())):
                for value in WRONG:
                    body = {**self.examples.get(path, {}), name: value}
                    answer = ask(app, method, fill(path), json.dumps(body).encode())
                    check_refusal(answer, f"{method} {path} with {name} = {json.dumps(value)[:40]}")

    def test_strange_addresses_give_no_server_error(self) -> None:
        """Path parameters of all kinds."""
        app = self.app()
        for path, method in self._asked(METHODS):
            for part in STRANGE_PARTS if "{" in path else ("x",):
                answer = ask(app, method, fill(path, part))
                if method != "HEAD":
                    check_refusal(answer, f"{method} {fill(path, part)}")

    def test_examples_succeed(self) -> None:
        """The bodies that the suite gives are answered with a 2xx."""
        self._need_examples()
        app = self.app()
        for path, body in self.examples.items():
            answer = ask(app, self._method(path), fill(path), json.dumps(body).encode())
            assert 200 <= answer.status < 300, f"{path} answers its example with {answer.status}: {answer.body[:300]!r}"

    def test_a_dead_engine_is_told(self) -> None:
        """An engine that is gone is a 503 in JSON where the engine was asked, and nobody's traceback."""
        self._need_examples()
        app = self.app(dead=True)
        for path, body in self.examples.items():
            answer = ask(app, self._method(path), fill(path), json.dumps(body).encode())
            fine = answer.status == 503 and answer.is_json
            assert fine or answer.status < 300, f"{path} answers {answer.status} where the engine is gone"
            assert b"Traceback" not in answer.body, f"{path} shows a traceback"

    def test_closed_routes_ask_for_a_key(self) -> None:
        """Without a key, what is not public answers 401 or 403 in JSON, and says nothing else."""
        app = self.app(api_key="key", admin_api_key="admin")
        context = self.context()
        for entry in self.entries(context):
            for method in entry.methods:
                answer = ask(app, method, fill(entry.path), b"{}")
                closed = answer.status in (401, 403)
                assert closed == (entry.tier != "public") or answer.status == 404, (
                    f"{method} {entry.path} of tier {entry.tier} answers {answer.status} without a key"
                )

    def _asked(self, methods: tuple[str, ...]) -> list[tuple[str, str]]:
        """(path, method) of the routes, for methods out of those given."""
        entries = self.entries(self.context())
        return [(entry.path, method) for entry in entries for method in entry.methods if method in methods]

    def _method(self, path: str) -> str:
        return next((method for known, method in self._asked(WITH_BODY) if known == path), "POST")

    def _need_examples(self) -> None:
        if not self.examples:
            pytest.skip("the suite gives no examples")


def fill(path: str, part: str = "x") -> str:
    """A path with something in place of its parameters."""
    return re.sub(r"\{[^}]*\}", part, path)


def check_refusal(answer: Answer, told: str) -> None:
    """A success, or a 4xx in JSON. Raises AssertionError."""
    assert answer.status < 500, f"{told} is answered with {answer.status}: {answer.body[:200]!r}"
    if answer.status >= 400:
        assert answer.is_json, f"{told} is refused with {answer.status} but not in JSON: {answer.body[:200]!r}"
    assert b"Traceback (most recent call last)" not in answer.body, f"{told} shows a traceback"
