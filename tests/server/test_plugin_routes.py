"""Dialects of plugins: which are served, which lists are refused, and what an exception in one costs."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from typing import Any

import pytest
from starlette.responses import PlainTextResponse, StreamingResponse

from server.client import http_client
from server.scripted import ScriptedEngine, server_context, tiny_text
from sglcore.contracts.routes import RouteEntry, RouteSpec
from sglcore.errors import ConfigError, PluginError, RequestError
from sglcore.isolation import LIMIT
from sglcore.plugins import Entry, Plugins, Selection, select
from sglcore.server.plugin_routes import check_apis, plugin_routes
from sglcore.server_config import ServerConfig

pytestmark = pytest.mark.asyncio
DIST = "sglcore-plugin-web"


def dialect(monkeypatch: pytest.MonkeyPatch, made: Any, name: str = "web", apis: str | None = None) -> Plugins:
    module = types.ModuleType("web_plugin")
    module.__dict__.update(SPEC=RouteSpec(name=name, factory="web_plugin:make"), make=lambda context: made)
    monkeypatch.setitem(sys.modules, "web_plugin", module)
    entry = Entry("routes", name, "web_plugin:SPEC", DIST, "1.0", 1)
    return select([entry], Selection(f"auto,{DIST}", apis=apis))


def client_of(monkeypatch, made, **config):
    plugins = dialect(monkeypatch, made)
    context = server_context(ScriptedEngine(), tiny_text(), **config)
    context = replace(context, faults=plugins.faults)
    return http_client(context, tuple(plugin_routes(plugins, context)))


async def good(request):
    return PlainTextResponse("good")


async def oops(request):
    raise ValueError("inside words")


async def refuses(request):
    raise RequestError("Not like this.", param="x", status=422)


async def no_response(request):
    return {"not": "a response"}


def route(path: str, endpoint=good, tier="public") -> RouteEntry:
    return RouteEntry(path, endpoint, ("GET",), tier)


async def test_an_exception_is_a_500_that_names_the_plugin_and_nothing_else(monkeypatch):
    async with client_of(monkeypatch, [route("/bad", oops), route("/good")]) as client:
        answer = await client.get("/bad")
        assert answer.status_code == 500
        error = answer.json()["error"]
        assert error["code"] == "plugin_error" and DIST in error["message"] and "inside words" not in answer.text
        assert (await client.get("/good")).text == "good"
        metrics = (await client.get("/metrics")).text
        assert f'sglcore:plugin_errors_total{{hook="GET /bad",plugin="{DIST}"}} 1.0' in metrics
        (row,) = (await client.get("/server_info")).json()["plugin_errors"]
        assert row == {"plugin": DIST, "hook": "GET /bad", "errors": 1, "last": "ValueError", "open": False}


async def test_after_errors_in_a_row_that_route_alone_is_out_of_service(monkeypatch):
    async with client_of(monkeypatch, [route("/bad", oops), route("/good")]) as client:
        codes = [(await client.get("/bad")).status_code for _ in range(LIMIT + 2)]
        assert codes == [500] * LIMIT + [503] * 2
        assert (await client.get("/bad")).json()["error"]["code"] == "plugin_unavailable"
        assert (await client.get("/good")).status_code == 200
        assert (await client.get("/health")).status_code == 200


async def test_answers_on_purpose_are_no_failures(monkeypatch):
    async with client_of(monkeypatch, [route("/refuses", refuses)]) as client:
        for _ in range(2 * LIMIT):
            answer = await client.get("/refuses")
            assert answer.status_code == 422 and answer.json()["error"]["param"] == "x"
        assert (await client.get("/server_info")).json()["plugin_errors"] == []


async def test_what_is_no_response_is_a_failure(monkeypatch):
    async with client_of(monkeypatch, [route("/none", no_response)]) as client:
        assert (await client.get("/none")).status_code == 500


async def test_a_stream_that_fails_ends_with_an_error_event(monkeypatch):
    async def stream(request):
        async def events():
            yield b"data: 1\n\n"
            raise ValueError("inside words")

        return StreamingResponse(events(), media_type="text/event-stream")

    async with client_of(monkeypatch, [route("/stream", stream)]) as client:
        text = (await client.get("/stream")).text
        assert text.startswith("data: 1\n\ndata: {") and DIST in text and "inside words" not in text
        assert (await client.get("/server_info")).json()["plugin_errors"][0]["errors"] == 1


async def test_a_plugins_routes_stand_behind_the_keys(monkeypatch):
    async with client_of(monkeypatch, [route("/x", tier="user")], api_key="k") as client:
        assert (await client.get("/x")).status_code == 401
        assert (await client.get("/x", headers={"Authorization": "Bearer k"})).text == "good"


def not_async(request):
    return PlainTextResponse("x")


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (None, "made a NoneType, not a list of RouteEntry"),
        (["/x"], "made a list with a str in it"),
        ([route("x")], "the path 'x', which does not begin with /"),
        ([route("/x", tier="everybody")], "the access tier 'everybody', not one of"),
        ([RouteEntry("/x", good, (), "user")], "the methods (), not a tuple"),
        ([RouteEntry("/x", good, "GET", "user")], "the methods 'GET', not a tuple"),
        ([RouteEntry("/x", good, ("get",), "user")], "the methods ('get',), not a tuple"),
        ([route("/x", not_async)], "an endpoint that is not an async function"),
        ([route("/x", None)], "an endpoint that is not an async function"),
        ([RouteEntry("/x", good, ("GET",), "user", doc="Good")], "a doc that is no RouteDoc"),
    ],
)
async def test_a_bad_list_of_routes_is_refused_at_start(monkeypatch, made, told):
    with pytest.raises(PluginError) as error:
        client_of(monkeypatch, made)
    assert told in str(error.value) and f"'web' of {DIST} 1.0" in str(error.value)


async def test_a_route_that_somebody_has_already_names_both(monkeypatch):
    with pytest.raises(ConfigError, match=f"answer GET /health, of sglcore and {DIST}"):
        client_of(monkeypatch, [route("/health")])


# -- --apis --


def paths(apis: str | None, monkeypatch) -> set[str]:
    context = server_context(ScriptedEngine(), tiny_text(), apis=apis)
    routes = plugin_routes(dialect(monkeypatch, [route("/web")], apis=apis), context)
    return {e.path for e in http_client(context, tuple(routes))._transport.app.state.entries}


async def test_apis_narrows_all_dialects_and_leaves_health_and_control(monkeypatch):
    always = {"/health", "/server_info", "/flush_cache", "/metrics"}
    openai, native = "/v1/chat/completions", "/generate"
    everything = paths(None, monkeypatch)
    assert {openai, native, "/web", "/tokenize", *always} <= everything
    assert paths("openai", monkeypatch) & {openai, native, "/web"} == {openai}
    assert paths("native, web", monkeypatch) & {openai, native, "/web"} == {native, "/web"}
    assert always <= paths("web", monkeypatch)


@pytest.mark.parametrize("apis", ["openai,ollama", ""])
async def test_an_unknown_dialect_is_an_error_with_the_list(monkeypatch, apis):
    config = ServerConfig(model_path="m", apis=apis)
    with pytest.raises(ConfigError, match=r"There are: openai, native, web\."):
        check_apis(config, dialect(monkeypatch, []))


async def test_a_dialect_cannot_take_a_name_of_ours(monkeypatch):
    with pytest.raises(PluginError, match=f"{DIST} 1.0 registers the dialect 'openai'"):
        check_apis(ServerConfig(model_path="m"), dialect(monkeypatch, [], name="openai"))
