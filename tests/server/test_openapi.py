"""`/openapi.json`: every route is in it, what it says follows from the routes, and it is sound as a document."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import schemathesis
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from server.client import http_client
from server.scripted import ScriptedEngine, server_context, tiny_text
from server.test_plugin_routes import dialect
from sglcore.contracts.routes import RouteDoc, RouteEntry
from sglcore.plugins import discover
from sglcore.server import build_app
from sglcore.server.openapi import document, summary_of
from sglcore.server.openapi_shapes import DONE, EVENTS, JSON, LINES, Shapes
from sglcore.server.plugin_routes import plugin_routes
from sglcore.server.ui.page import address, page_files
from sglcore.server_config import ServerConfig

KEY, ADMIN = "user-key-123456", "admin-key-123456"
STATIC = {address(name) for name in page_files()}


class Asked(Struct, kw_only=True):
    """What is asked."""

    number: int
    word: str = "x"


class Told(Struct, kw_only=True):
    text: str


def all_entries(**config: Any) -> list[RouteEntry]:
    """Those of the core and of the plugins of this repository."""
    context = server_context(ScriptedEngine(), tiny_text(), **config)
    entries: list[RouteEntry] = build_app(context, plugin_routes(discover("auto"), context)).state.entries
    return entries


def whole(**config: Any) -> dict[str, Any]:
    """As a client reads it."""
    told = document(all_entries(**config), ServerConfig(model_path="m", **config))
    read: dict[str, Any] = json.loads(json.dumps(told))
    return read


async def endpoint(_: Request) -> Response:
    """Does something. It says more
    below."""
    return Response()


def entry(doc: RouteDoc, method: str = "POST", **fields: Any) -> RouteEntry:
    values: dict[str, Any] = {"path": "/x", "tier": "user", "doc": doc, **fields}
    return RouteEntry(endpoint=endpoint, methods=(method,), **values)


def operation(doc: RouteDoc, method: str = "POST", **fields: Any) -> dict[str, Any]:
    told = document([entry(doc, method, **fields)], ServerConfig(model_path="m"))
    (path,) = told["paths"].values()
    found: dict[str, Any] = path[method.lower()]
    return found


def test_every_route_has_a_doc() -> None:
    without = [f"{'/'.join(e.methods)} {e.path}" for e in all_entries() if e.doc is None and e.path not in STATIC]
    assert not without, f"these routes have no RouteDoc: {without}"


def test_every_operation_says_what_it_is() -> None:
    told = whole()
    operations = [op for path in told["paths"].values() for op in path.values()]
    assert len(operations) > 60
    for one in operations:
        assert one["summary"] and not one["summary"].endswith(".") and one["tags"] != ["other"], one["operationId"]
    names = [one["operationId"] for one in operations]
    assert len(names) == len(set(names))


def test_it_is_sound() -> None:
    told = whole()
    schemathesis.openapi.from_dict(told).validate()
    text = json.dumps(told)
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert named == set(told["components"]["schemas"])
    assert all("." not in name for name in named), "two types of one name"
    schemes = {
        name for path in told["paths"].values() for op in path.values() for way in op["security"] for name in way
    }
    assert schemes == set(told["components"]["securitySchemes"]) == {"userKey", "adminKey", "x-api-key"}


def test_tiers_are_security() -> None:
    def ways(path: str, method: str, **config: Any) -> Any:
        return whole(**config)["paths"][path][method]["security"]

    assert ways("/v1/models", "get") == [{}, {"userKey": []}]
    assert ways("/v1/models", "get", api_key=KEY) == [{"userKey": []}]
    assert ways("/v1/models", "get", admin_api_key=ADMIN) == [{}, {"userKey": []}]
    assert ways("/abort_request", "post", api_key=KEY) == [{"adminKey": []}]
    assert ways("/abort_request", "post", admin_api_key=ADMIN) == [{"adminKey": []}]
    assert ways("/health", "get", api_key=KEY) == []
    assert ways("/v1/messages", "post", api_key=KEY) == [{"userKey": []}, {"x-api-key": []}]


@pytest.mark.parametrize(
    ("method", "fields", "doc", "statuses"),
    [
        ("GET", {"tier": "public"}, RouteDoc(), {"200"}),
        ("GET", {}, RouteDoc(), {"200", "401"}),
        ("GET", {"tier": "admin"}, RouteDoc(), {"200", "401", "403"}),
        ("GET", {"tier": "public", "path": "/x/{name:path}"}, RouteDoc(), {"200", "404"}),
        ("GET", {"tier": "public"}, RouteDoc(query=Asked), {"200", "400"}),
        ("GET", {"tier": "public"}, RouteDoc(body=Asked), {"200"}),
        ("POST", {"tier": "public"}, RouteDoc(body=Asked), {"200", "400", "413"}),
        ("POST", {}, RouteDoc(), {"200", "401", "503"}),
        ("POST", {"tier": "public"}, RouteDoc(answers={204: {}, 503: {JSON: Told}}, refusals=(429, 503)), None),
    ],
)
def test_statuses_follow_from_the_route(method: str, fields: Any, doc: RouteDoc, statuses: set[str] | None) -> None:
    told = operation(doc, method, **fields)
    assert set(told["responses"]) == (statuses or {"204", "429", "503"})
    assert ("requestBody" in told) == (method == "POST" and doc.body is not None)
    if statuses is None:  # an answer of its own is no error of the dialect's
        assert told["responses"]["503"]["content"][JSON]["schema"] == {"$ref": "#/components/schemas/Told"}


def test_errors_are_the_dialects() -> None:
    own = operation(RouteDoc(body=Asked, error=Told))["responses"]["400"]["content"]
    assert own == {JSON: {"schema": {"$ref": "#/components/schemas/Told"}}}
    usual = operation(RouteDoc(body=Asked))["responses"]["400"]["content"]
    assert usual == {JSON: {"schema": {"$ref": "#/components/schemas/OpenAIError"}}}


def test_bodies_queries_and_paths() -> None:
    told = operation(RouteDoc(body=(Asked, {"type": "null"}), body_optional=True, example={"number": 1}))
    schema = {"anyOf": [{"$ref": "#/components/schemas/Asked"}, {"type": "null"}]}
    content = {JSON: {"schema": schema, "example": {"number": 1}}}
    assert told["requestBody"] == {"content": content, "required": False}
    asked = operation(RouteDoc(query=Asked), "GET", path="/x/{one}/{two:path}")["parameters"]
    assert [(p["in"], p["name"], p["required"]) for p in asked] == [
        ("path", "one", True),
        ("path", "two", True),
        ("query", "number", True),
        ("query", "word", False),
    ]
    assert asked[3]["schema"] == {"type": "string", "default": "x"}


def test_a_struct_of_a_query_is_a_component_only_where_a_body_is_it_too() -> None:
    config = ServerConfig(model_path="m")
    alone = document([entry(RouteDoc(query=Asked))], config)["components"]["schemas"]
    both = document([entry(RouteDoc(query=Asked, body=Asked))], config)["components"]["schemas"]
    other = document([entry(RouteDoc(query=Asked)), entry(RouteDoc(body=Asked), path="/y")], config)
    assert "Asked" not in alone
    assert "Asked" in both and "Asked" in other["components"]["schemas"]


def test_streams_tell_the_shape_of_an_event() -> None:
    content = operation(RouteDoc(answers={200: {EVENTS: (Told, DONE), LINES: Told}}))["responses"]["200"]["content"]
    told = {"$ref": "#/components/schemas/Told"}
    data = {"type": "string", "contentMediaType": JSON, "contentSchema": told}
    assert content[EVENTS]["itemSchema"]["properties"]["data"] == {"anyOf": [{"const": "[DONE]"}, data]}
    assert content[LINES] == {"itemSchema": told}
    (one,) = operation(RouteDoc(answers={200: {EVENTS: int}}))["responses"]["200"]["content"].values()
    assert one["itemSchema"]["properties"]["data"]["contentSchema"] == {"type": "integer"}


def test_head_has_no_content() -> None:
    doc = RouteDoc(answers={200: {"text/plain": str}})
    assert operation(doc, "HEAD")["responses"]["200"] == {"description": "OK"}
    assert "content" in operation(doc, "GET")["responses"]["200"]


def test_shapes() -> None:
    shapes = Shapes([Told, (int, {"type": "null"}), Asked])
    assert shapes.schema(Told) == {"$ref": "#/components/schemas/Told"} and shapes.name(Told) == "Told"
    assert shapes.schema((int, {"type": "null"})) == {"anyOf": [{"type": "integer"}, {"type": "null"}]}
    assert shapes.components["Asked"]["description"] == "What is asked."


def test_a_summary_may_come_from_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    assert summary_of(entry(RouteDoc())) == "Does something. It says more"
    assert summary_of(entry(RouteDoc(summary="Given"))) == "Given"
    context = server_context(ScriptedEngine(), tiny_text())
    (made,) = plugin_routes(dialect(monkeypatch, [entry(RouteDoc())]), context)
    assert summary_of(made) == "Does something. It says more"


def test_apis_narrow_it() -> None:
    only = whole(apis="native")["paths"]
    assert "/generate" in only and "/v1/chat/completions" not in only and "/v1/messages" not in only
    assert "/v1/messages" in whole(apis="anthropic")["paths"]


@pytest.mark.asyncio
async def test_it_is_served_to_those_who_may_use_the_api() -> None:
    async with http_client(server_context(ScriptedEngine(), tiny_text())) as client:
        answer = await client.get("/openapi.json")
        assert answer.status_code == 200 and answer.headers["content-type"] == JSON
        assert "/openapi.json" in answer.json()["paths"]
    context = server_context(ScriptedEngine(), tiny_text(), api_key=KEY, admin_api_key=ADMIN)
    async with http_client(context) as client:
        assert (await client.get("/openapi.json")).status_code == 401
        for key in (KEY, ADMIN):
            answer = await client.get("/openapi.json", headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == 200 and KEY not in answer.text and ADMIN not in answer.text


@pytest.mark.asyncio
@pytest.mark.parametrize("bad", [object, list[int] | list[str], {"x": object()}], ids=["type", "union", "schema"])
async def test_a_doc_that_cannot_be_described_costs_that_route_alone(bad: Any, caplog: Any) -> None:
    wrong = entry(RouteDoc(summary="Wrong", body=bad), path="/wrong")
    right = entry(RouteDoc(summary="Right", body=Asked), path="/right")
    async with http_client(server_context(ScriptedEngine(), tiny_text()), (wrong, right)) as client:
        told = (await client.get("/openapi.json")).json()["paths"]
    assert "/right" in told and "/v1/models" in told and "/wrong" not in told
    assert "The route /wrong is left out" in caplog.text


@pytest.mark.asyncio
async def test_a_plugins_route_is_in_it_with_its_own_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    context = server_context(ScriptedEngine(), tiny_text())
    doc = RouteDoc(summary="Of a plugin", tag="web", body=Asked, answers={200: {JSON: Told}})
    routes = plugin_routes(dialect(monkeypatch, [entry(doc, path="/web")]), context)
    async with http_client(context, tuple(routes)) as client:
        told = (await client.get("/openapi.json")).json()
    assert told["paths"]["/web"]["post"]["tags"] == ["web"]
    assert {"Asked", "Told"} <= set(told["components"]["schemas"])
    assert {"name": "web"} in told["tags"]
