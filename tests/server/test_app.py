"""Routes, tiers, keys, bodies and everything that is no endpoint's own business."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from server.client import http_client
from server.scripted import ScriptedEngine, says, server_context, tiny_text
from sglcore.contracts.routes import RouteEntry
from sglcore.errors import ConfigError, RequestError
from sglcore.server import build_app
from sglcore.server.app import core_routes
from sglcore.server.body import MAX_BODY
from sglcore.server.ui.page import address, page_files

TEXT = tiny_text()
PAGE = {address(name) for name in page_files()}
PUBLIC = {"/health", "/health_generate", "/livez", "/metrics", "/ready", "/readyz", *PAGE}
ADMIN = {
    "/flush_cache",
    "/abort_request",
    "/pause_generation",
    "/continue_generation",
    "/update_weight_version",
    "/configure_logging",
    "/set_internal_state",
    "/freeze_gc",
    "/slow_down",
    "/start_profile",
    "/stop_profile",
}
USER = {
    "/v1/models",
    "/v1/models/{model_id:path}",
    "/v1/responses",
    "/v1/responses/input_tokens",
    "/v1/responses/{response_id}",
    "/v1/responses/{response_id}/cancel",
    "/v1/responses/{response_id}/input_items",
    "/v1/score",
    "/v1/rerank",
    "/v1/embeddings",
    "/v1/classify",
    "/v1/chat/completions",
    "/v1/completions",
    "/generate",
    "/encode",
    "/classify",
    "/parse_function_call",
    "/separate_reasoning",
    "/get_load",
    "/v1/loads",
    "/weight_version",
    "/get_weight_version",
    "/open_session",
    "/close_session",
    "/model_info",
    "/get_model_info",
    "/server_info",
    "/get_server_info",
    "/tokenize",
    "/v1/tokenize",
    "/detokenize",
    "/v1/detokenize",
    "/ui/engine",
}


def entries(**config: Any) -> list[RouteEntry]:
    return core_routes(server_context(ScriptedEngine(), TEXT, **config))


def test_every_route_has_the_tier_it_should() -> None:
    tiers = {entry.path: entry.tier for entry in entries()}
    assert tiers == dict.fromkeys(PUBLIC, "public") | dict.fromkeys(ADMIN, "admin") | dict.fromkeys(USER, "user")


def test_the_app_has_these_routes_and_no_other() -> None:
    app = build_app(server_context(ScriptedEngine(), TEXT))
    assert {getattr(route, "path", None) for route in app.routes} == PUBLIC | ADMIN | USER | {"/openapi.json"}


def test_metrics_can_be_turned_off() -> None:
    assert "/metrics" not in {entry.path for entry in entries(enable_metrics=False)}


KEYS = {"none": None, "user": "u-key", "admin": "a-key", "wrong": "x"}
# (api key set, admin key set) -> tier -> who gets in
EXPECTED = {
    (False, False): {"public": set(KEYS), "user": set(KEYS), "admin": set(KEYS)},
    (True, False): {"public": set(KEYS), "user": {"user"}, "admin": {"user"}},
    (False, True): {"public": set(KEYS), "user": set(KEYS), "admin": {"admin"}},
    (True, True): {"public": set(KEYS), "user": {"user", "admin"}, "admin": {"admin"}},
}


@pytest.mark.asyncio
@pytest.mark.parametrize("setup", EXPECTED, ids=["open", "user key", "admin key", "both keys"])
async def test_keys_open_exactly_their_tiers_on_every_route(setup: tuple[bool, bool]) -> None:
    config: dict[str, Any] = {"api_key": "u-key" if setup[0] else None, "admin_api_key": "a-key" if setup[1] else None}
    context = server_context(ScriptedEngine(says(TEXT, "x")), TEXT, **config)
    async with http_client(context) as client:
        for entry in core_routes(context):
            for who, key in KEYS.items():
                headers = {"Authorization": f"Bearer {key}"} if key else {}
                path = entry.path.replace("{model_id:path}", "tiny")
                answer = await client.request(entry.methods[0], path, headers=headers)
                refused = answer.status_code in (401, 403)
                assert refused == (who not in EXPECTED[setup][entry.tier]), (entry.path, who, answer.status_code)


@pytest.mark.asyncio
@pytest.mark.parametrize("header", ["u-key", "Basic u-key", "Bearer", "Bearer u-key2", "Bearer ü", "bearer  "])
async def test_malformed_keys_are_refused(header: str) -> None:
    async with http_client(server_context(ScriptedEngine(), TEXT, api_key="u-key")) as client:
        answer = await client.get("/v1/models", headers={b"Authorization": header.encode()})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.asyncio
async def test_the_user_key_on_an_admin_route_is_told_so() -> None:
    async with http_client(server_context(ScriptedEngine(), TEXT, api_key="u", admin_api_key="a")) as client:
        answer = await client.post("/flush_cache", headers={"Authorization": "Bearer u"})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "admin_key_required"


@pytest.mark.asyncio
@pytest.mark.parametrize("method, path, status", [("GET", "/nowhere", 404), ("GET", "/generate", 405)])
async def test_unknown_paths_and_methods(method: str, path: str, status: int) -> None:
    async with http_client(server_context(ScriptedEngine(), TEXT)) as client:
        answer = await client.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert path in answer.json()["error"]["message"]


def extra(**fields: Any) -> RouteEntry:
    async def endpoint(request: Request) -> Response:
        if "bad" in request.query_params:
            raise RequestError("refused", param="bad")
        if "worse" in request.query_params:
            raise ZeroDivisionError("inner detail")
        return PlainTextResponse("extra")

    values: dict[str, Any] = {"path": "/extra", "endpoint": endpoint, "methods": ("GET",), "tier": "user"}
    return RouteEntry(**(values | fields))


@pytest.mark.asyncio
async def test_a_plugins_route_stands_behind_the_same_guard() -> None:
    context = server_context(ScriptedEngine(), TEXT, api_key="u")
    async with http_client(context, (extra(),)) as client:
        key = {"Authorization": "Bearer u"}
        assert (await client.get("/extra")).status_code == 401
        assert (await client.get("/extra", headers=key)).text == "extra"
        bad = await client.get("/extra?bad=1", headers=key)
        worse = await client.get("/extra?worse=1", headers=key)
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "bad")
    assert worse.status_code == 500
    assert "inner detail" not in worse.text


@pytest.mark.parametrize("fields", [{"tier": "everyone"}, {"path": "/generate", "methods": ("POST",)}])
def test_a_route_without_a_tier_or_twice_cannot_be_built(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"/extra|/generate"):
        build_app(server_context(ScriptedEngine(), TEXT), [extra(**fields)])


@pytest.mark.asyncio
@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit_is_refused(declared: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * (1 << 20)

    content: Any = b" " * (MAX_BODY + 1) if declared else chunks()
    async with http_client(server_context(ScriptedEngine(), TEXT)) as client:
        answer = await client.post("/generate", content=content)
    assert answer.status_code == 413
    assert str(MAX_BODY) in answer.json()["error"]["message"]


def test_importing_the_server_loads_no_torch() -> None:
    code = "import sys, sglcore.server; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
