"""litellm against `sglcore serve`, by each of the dialects it speaks; minutes to install, so part of `make full`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from clients.served import CITY, FINAL, HELLO, KEY, NAME, NOW, WEATHER, Server, expect_abort, scripted, user

pytestmark = pytest.mark.slow
TOOLS: Any = [WEATHER, NOW]
PROVIDERS = {"openai": "/v1", "anthropic": "", "ollama_chat": ""}


@pytest.fixture(scope="module")
def litellm() -> Any:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it is fetched at import
    module: Any = pytest.importorskip("litellm", reason="make full installs it")
    module.telemetry = False
    module.suppress_debug_info = True
    return module


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with scripted(tmp_path_factory.mktemp("model")) as server:
        yield server


@pytest.fixture(params=PROVIDERS)
def where(server: Server, request: pytest.FixtureRequest) -> dict[str, Any]:
    """The arguments that send a call to the server, by one provider."""
    base = f"{server.url}{PROVIDERS[request.param]}"
    return {"model": f"{request.param}/{NAME}", "api_base": base, "api_key": KEY, "num_retries": 0, "timeout": 60}


def test_completion(litellm: Any, where: dict[str, Any]) -> None:
    answer = litellm.completion(messages=user("Hi"), max_tokens=200, **where)
    assert answer.choices[0].message.content == HELLO and answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens and answer.usage.prompt_tokens


def test_stream(litellm: Any, where: dict[str, Any]) -> None:
    chunks = list(litellm.completion(messages=user("Hi"), max_tokens=200, stream=True, **where))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == HELLO
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.asyncio
async def test_acompletion(litellm: Any, where: dict[str, Any]) -> None:
    answer = await litellm.acompletion(messages=user("Hi"), max_tokens=200, **where)
    assert answer.choices[0].message.content == HELLO
    parts = await litellm.acompletion(messages=user("Hi"), max_tokens=200, stream=True, **where)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in parts]) == HELLO


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_loop(litellm: Any, where: dict[str, Any], stream: bool) -> None:
    messages: list[Any] = user("Weather?")
    rounds = 0
    while True:
        answer = litellm.completion(messages=messages, tools=TOOLS, max_tokens=400, stream=stream, **where)
        message = put_together(list(answer)) if stream else plain(answer.choices[0].message)
        if not message["tool_calls"]:
            break
        rounds += 1
        called = [
            (call["function"]["name"], json.loads(call["function"]["arguments"])) for call in message["tool_calls"]
        ]
        assert called == [("get_weather", CITY), ("now", {})]
        messages.append(message)
        messages += [{"role": "tool", "tool_call_id": call["id"], "content": "12"} for call in message["tool_calls"]]
    assert rounds == 1 and message["content"] == FINAL


def plain(message: Any) -> dict[str, Any]:
    calls = [call.model_dump(include={"id", "type", "function"}) for call in message.tool_calls or ()]
    return {"role": "assistant", "content": message.content, "tool_calls": calls}


def put_together(chunks: list[Any]) -> dict[str, Any]:
    """By ids: litellm leaves out the `index` that Ollama's dialect gives a call, so its own builder joins two calls."""
    text, calls = "", []
    for chunk in chunks:
        delta = chunk.choices[0].delta
        text += delta.content or ""
        for call in delta.tool_calls or ():
            if call.id and call.function.name:
                calls.append(
                    {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": ""}}
                )
            calls[-1]["function"]["arguments"] += call.function.arguments or ""
    return {"role": "assistant", "content": text, "tool_calls": calls}


def test_errors(litellm: Any, where: dict[str, Any]) -> None:
    provider = where["model"].split("/")[0]
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(messages=user("Hi"), **where | {"api_key": "wrong"})
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(messages=user("Hi"), top_p=7, **where)
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(messages=user("Hi"), **where | {"model": f"{provider}/other"})


def test_a_timeout_aborts(litellm: Any, server: Server, where: dict[str, Any]) -> None:
    with expect_abort(server), pytest.raises((litellm.Timeout, litellm.APIConnectionError)):
        litellm.completion(messages=user("Count"), max_tokens=60_000, **where | {"timeout": 0.7})
