"""Keys on every route there is, plugins' included; secrets nowhere; what browsers and oversized bodies are told."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import Any

import pytest
from starlette.responses import HTMLResponse, JSONResponse, Response

from server.client import http_client
from server.scripted import ScriptedEngine, says, server_context, tiny_text
from sglcore.contracts.routes import RouteEntry
from sglcore.errors import ConfigError
from sglcore.plugins import discover
from sglcore.server import build_app
from sglcore.server.body import MAX_BODY, MAX_DEPTH
from sglcore.server.cors import check_origins
from sglcore.server.plugin_routes import plugin_routes

pytestmark = pytest.mark.asyncio
TEXT = tiny_text()
USER, ADMIN = "user-k3y-of-clients", "adm1n-k3y-of-operators"
SECRETS = (USER, ADMIN, "k3yfile-passw0rd")
KEYS = {"none": None, "user": USER, "admin": ADMIN, "wrong": "x"}
LET_IN = {"public": set(KEYS), "user": {"user", "admin"}, "admin": {"admin"}}


def keyed(**config: Any) -> Any:
    flags = {"api_key": USER, "admin_api_key": ADMIN, "ssl_keyfile_password": SECRETS[2]}
    return server_context(ScriptedEngine(says(TEXT, "x")), TEXT, **flags | config)


async def test_no_route_of_any_plugin_is_open_to_whom_it_should_not_be() -> None:
    context = keyed()
    extra = tuple(plugin_routes(discover("auto"), context))
    assert extra  # the dialects of this repository
    entries = build_app(context, extra).state.entries
    async with http_client(context, extra) as client:
        for entry in entries:
            for method in entry.methods:
                for who, key in KEYS.items():
                    path = re.sub(r"\{.*?\}", "x", entry.path)
                    headers = {"Authorization": f"Bearer {key}"} if key else {}
                    answer = await client.request(method, path, headers=headers)
                    refused = answer.status_code in (401, 403) and "slow_down_disabled" not in answer.text
                    assert refused == (who not in LET_IN[entry.tier]), (method, path, who, answer.status_code)


async def test_the_application_serves_declared_routes_and_nothing_else() -> None:
    context = keyed()
    extra = plugin_routes(discover("auto"), context)
    app = build_app(context, extra)
    declared = {(entry.path, frozenset(entry.methods)) for entry in app.state.entries}
    for route in app.routes:  # a mounted application would have no tier
        methods = frozenset(getattr(route, "methods", ()) or ())
        assert any(path == route.path and named <= methods for path, named in declared), route


@pytest.mark.parametrize("tier", [None, "", "anyone"])
async def test_a_route_without_a_tier_cannot_be_built(tier: Any) -> None:
    async def endpoint(_: Any) -> Response:
        return Response()

    with pytest.raises(ConfigError, match="tier"):
        build_app(keyed(), [RouteEntry("/x", endpoint, ("GET",), tier)])


async def test_keys_are_in_no_answer_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def failing(_: Any) -> Response:
        raise ValueError("on purpose")

    context = keyed()
    extra = (RouteEntry("/fails", failing, ("POST",), "user"), *plugin_routes(discover("auto"), context))
    seen = []
    async with http_client(context, extra) as client:
        for entry in build_app(context, extra).state.entries:
            for method in entry.methods:
                for body in (b"", b'{"rid": 3}', b"{"):
                    path = entry.path.partition("{")[0]
                    headers = {"Authorization": f"Bearer {ADMIN}"}
                    answer = await client.request(method, path, headers=headers, content=body)
                    seen.append(answer.text + str(answer.headers))
    assert any("on purpose" in str(record.exc_info) for record in caplog.records)
    everything = "\n".join([*seen, caplog.text])
    assert not any(secret in everything for secret in SECRETS)


async def test_a_page_of_another_site_cannot_steer_the_server() -> None:
    foreign = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    async with http_client(server_context(ScriptedEngine(), TEXT)) as client:
        for path in ("/flush_cache", "/v1/models", "/continue_generation"):
            method = "POST" if path == "/continue_generation" else "GET"
            answer = await client.request(method, path, headers=foreign)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
            assert "access-control-allow-origin" not in answer.headers
        assert (await client.get("/health", headers=foreign)).status_code == 200
        assert (await client.get("/v1/models", headers={"Sec-Fetch-Site": "same-origin"})).status_code == 200


async def test_origins_that_are_let_in_get_no_credentials() -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for allowed, origin, let_in in (
        ("https://chat.example", "https://chat.example", True),
        ("https://chat.example", "https://evil.example", False),
        ("*", "https://evil.example", True),
    ):
        async with http_client(keyed(cors_allow_origins=(allowed,))) as client:
            before = await client.options("/v1/chat/completions", headers=asked | {"Origin": origin})
            own = {"Authorization": f"Bearer {USER}", "Origin": origin, "Sec-Fetch-Site": "cross-site"}
            answer = await client.get("/v1/models", headers=own)
        assert (before.status_code == 200, answer.status_code == 200) == (let_in, let_in)
        assert ("access-control-allow-origin" in answer.headers) == let_in
        assert "access-control-allow-credentials" not in answer.headers
        assert "access-control-allow-credentials" not in before.headers
        assert answer.headers["x-content-type-options"] == before.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "origin", ["chat.example", "https://a/b", "https://a/", "ftp://a", "https://*.a", "https://u@a", ""]
)
async def test_what_is_no_origin_is_refused_at_start(origin: str) -> None:
    with pytest.raises(ConfigError, match="cors-allow-origins"):
        check_origins([origin])


async def test_every_answer_forbids_sniffing_and_a_bare_page_may_do_nothing() -> None:
    async def page(_: Any) -> Response:
        return HTMLResponse("<p>hello")

    async def own(_: Any) -> Response:
        return HTMLResponse("<p>hello", headers={"Content-Security-Policy": "default-src 'self'"})

    async def plain(_: Any) -> Response:
        return JSONResponse({})

    extra = [RouteEntry(f"/x/{f.__name__}", f, ("GET",), "public") for f in (page, own, plain)]
    async with http_client(server_context(ScriptedEngine(), TEXT), tuple(extra)) as client:
        for path in ("/health", "/v1/models", "/nowhere", "/", "/x/page", "/x/plain", "/generate"):
            assert (await client.get(path)).headers.get_list("x-content-type-options") == ["nosniff"], path
        bare, given, data = [await client.get(entry.path) for entry in extra]
    assert "default-src 'none'" in bare.headers["content-security-policy"] and bare.headers["x-frame-options"] == "DENY"
    assert given.headers["content-security-policy"] == "default-src 'self'"
    assert "content-security-policy" not in data.headers


def nested(levels: int) -> bytes:
    """{"text": "a", "x": [[...]]}, so many levels deep."""
    return b'{"text": "a", "x": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


@pytest.mark.parametrize(
    "body, kind, status, code",
    [
        (b'{"text": "a"}', "application/json", 200, None),
        (b'{"text": "a"}', "application/json; charset=utf-8", 200, None),
        (b'{"text": "a"}', None, 200, None),
        (b'{"text": "a"}', "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b"--b", "multipart/form-data; boundary=b", 415, "unsupported_media_type"),
        (b'{"text": "a"}', "text/plain", 415, "unsupported_media_type"),
        (b'{"text": "a", "text": "b"}', None, 400, "invalid_json"),
        (b'{"text": "a", "sampling_params": {"n": 1, "n": 2}}', None, 400, "invalid_json"),
        (b'{"text": "a", "x": [{"k": 1, "\\u006b": 2}]}', None, 400, "invalid_json"),
        (nested(MAX_DEPTH), None, 200, None),
        (nested(MAX_DEPTH + 1), None, 400, "invalid_json"),
        (nested(1_000_000), None, 400, "invalid_json"),
        (b'{"text": "' + b"[{" * 100 + b'"}', None, 200, None),
        (b'{"text": "a\xff"}', None, 400, "invalid_json"),
        (b'{"text": "\xed\xa0\x80"}', None, 400, "invalid_json"),
        (b'{"text": "a"', None, 400, "invalid_json"),
        (b'{"text": "a"} x', None, 400, "invalid_json"),
        (b'{"text": NaN}', None, 400, "invalid_json"),
        (b"[]", None, 400, "invalid_json"),
        (b"", None, 400, "invalid_json"),
        (b'{"text": "a", "priority": 1' + b"0" * 400 + b"}", None, 400, None),
        (b'{"text": "' + b"x" * MAX_BODY + b'"}', None, 413, "request_too_large"),
    ],
    ids=range(22),
)
async def test_bodies(body: bytes, kind: str | None, status: int, code: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    async with http_client(server_context(ScriptedEngine(says(TEXT, "x")), TEXT)) as client:
        answer = await client.post("/generate", content=body, headers=headers)
    assert answer.status_code == status, answer.text[:200]
    if code:
        assert answer.json()["error"]["code"] == code


async def test_a_dialect_takes_curls_form_but_not_a_browsers() -> None:
    context = server_context(ScriptedEngine(says(TEXT, "x")), TEXT)

    async def echo(request: Any) -> Response:
        return JSONResponse(await context.http.read_object(request))

    route = RouteEntry("/dialect", echo, ("POST",), "user")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    async with http_client(context, (route,)) as client:
        curl = await client.post("/dialect", content=b'{"a": 1}', headers=form)
        page = await client.post("/dialect", content=b'{"a": 1}', headers=form | {"Origin": "http://x"})
    assert (curl.status_code, curl.json(), page.status_code) == (200, {"a": 1}, 415)


async def test_a_body_that_does_not_arrive_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sglcore.server.body.BODY_SECONDS", 0.05)
    app = build_app(server_context(ScriptedEngine(), TEXT))
    sent: list[Any] = []
    first = True

    async def receive() -> dict[str, Any]:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": b'{"text"', "more_body": True}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/generate", "headers": [], "query_string": b"", "asgi": {}}
    async with asyncio.timeout(10):
        await app(scope, receive, send)
    assert sent[0]["status"] == 408


LISTS: list[tuple[str, dict[str, Any], str]] = [
    ("/generate", {"text": ["a"] * 1025}, "text"),
    ("/generate", {"input_ids": [[1]] * 1025}, "input_ids"),
    ("/generate", {"input_ids": [1] * 100_000}, "input_ids"),
    ("/generate", {"text": ["a"] * 100, "sampling_params": {"n": 128}}, "n"),
    ("/generate", {"text": "a", "custom_labels": {str(i): "x" for i in range(65)}}, "custom_labels"),
    ("/generate", {"text": "a", "custom_labels": {"a": "x" * 300}}, "custom_labels[...]"),
    ("/generate", {"text": "a", "top_logprobs_num": 129}, "top_logprobs_num"),
    ("/generate", {"text": "a", "return_logprob": True, "token_ids_logprob": [1] * 1025}, "token_ids_logprob"),
    ("/generate", {"text": "a", "priority": 2**31}, "priority"),
    ("/generate", {"text": "a", "timeout": 1e12}, "timeout"),
    ("/generate", {"text": "a", "session_params": {"id": "s", "offset": 2**40}}, "session_params.offset"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}] * 16385}, "messages"),
    ("/v1/score", {"query": "q" * 10**6, "items": ["a"] * 1000, "label_token_ids": [1, 2], "model": "tiny"}, "items"),
    ("/open_session", {"capacity_of_str_len": -1}, "capacity_of_str_len"),
    ("/abort_request", {"rid": "x" * 257}, "rid"),
    ("/flush_cache", {"timeout": 1e9}, "timeout"),
    ("/tokenize", {"prompt": ["a"] * 1025}, "prompt"),
    ("/slow_down", {"forward_sleep_time": 61}, "forward_sleep_time"),
    ("/start_profile", {"num_steps": 1001}, "num_steps"),
    ("/start_profile", {"start_step": 2**31}, "start_step"),
    ("/parse_function_call", {"text": "a", "tools": [{}] * 1025}, "tools"),
    ("/update_weight_version", {"new_version": "x" * 257}, "new_version"),
    ("/set_internal_state", {"server_args": {"max_queued_requests": 0}}, "server_args.max_queued_requests"),
]


@pytest.mark.parametrize("path, body, param", LISTS, ids=[f"{p}-{q}" for p, _, q in LISTS])
async def test_numbers_and_lists_are_bounded(path: str, body: dict[str, Any], param: str) -> None:
    engine = ScriptedEngine(says(TEXT, "x"))
    async with http_client(server_context(engine, TEXT)) as client:
        answer = await client.post(path, content=json.dumps(body))
    assert answer.status_code == 400, answer.text[:300]
    assert answer.json()["error"]["param"] == param
    assert not engine.requests
