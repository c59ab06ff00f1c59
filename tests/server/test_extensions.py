"""SGLang's own fields of chat and completions, fill-in-the-middle, and tokens of a chat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.client import events, http_client
from server.parsing import ASK, TEXT, WEATHER, parsers
from server.scripted import ScriptedEngine, output, says, server_context, tiny_text
from sglcore.errors import ConfigError
from sglcore.request import FinishReason, HiddenStates
from sglcore.server.completion_templates import TEMPLATES, completion_template

pytestmark = pytest.mark.asyncio
CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
END = TEXT.eos_token_ids[0]
IDS = [*TEXT.encode("the quick"), END]
BODIES: dict[str, dict[str, Any]] = {CHAT: ASK, PLAIN: {"prompt": "hello", "max_tokens": 50}}


async def post(path: str, body: dict[str, Any], engine: ScriptedEngine | None = None, **flags: Any) -> tuple[Any, Any]:
    engine = engine or ScriptedEngine(says(TEXT, "the quick", end=END))
    context = server_context(engine, TEXT, model={"context_length": 1024}, **flags)
    context.parsers = parsers("hermes")
    async with http_client(context) as client:
        return await client.post(path, json=BODIES[path] | body if path in BODIES else body), engine


@pytest.mark.parametrize("path", [CHAT, PLAIN])
async def test_token_ids(path: str) -> None:
    fields = {"return_token_ids": True, "return_prompt_token_ids": True}
    answer, engine = await post(path, fields)
    body = answer.json()
    prompt = engine.requests[0].token_ids().tolist()
    assert body["choices"][0]["token_ids"] == IDS
    assert (body if path == CHAT else body["choices"][0])["prompt_token_ids"] == prompt
    answer, _ = await post(path, fields | {"stream": True})
    chunks = events(answer.content)
    assert [i for c in chunks for i in c["choices"][0].get("token_ids", ())] == IDS
    given = [(c if path == CHAT else c["choices"][0]).get("prompt_token_ids") for c in chunks]
    assert given[0] == prompt and given[1:] == [None] * (len(chunks) - 1)
    plain, _ = await post(path, {})
    assert not {"token_ids", "prompt_token_ids"} & {*plain.json(), *plain.json()["choices"][0]}


@pytest.mark.parametrize("path", [CHAT, PLAIN])
@pytest.mark.parametrize("stream", [False, True])
async def test_meta_info_is_the_native_one(path: str, stream: bool) -> None:
    answer, engine = await post(path, {"return_meta_info": True, "rid": "r", "stream": stream})
    chunks = events(answer.content) if stream else [answer.json()]
    metas = [c["choices"][0]["meta_info"] for c in chunks if "meta_info" in c["choices"][0]]
    (meta,) = metas
    assert meta["id"] == "r" and meta["finish_reason"] == {"type": "stop", "matched": END}
    assert meta["completion_tokens"] == len(IDS) and meta["weight_version"] == "default"
    assert meta["prompt_tokens"] == len(engine.requests[0].token_ids())


@pytest.mark.parametrize("path", [CHAT, PLAIN])
async def test_logprobs_of_chosen_tokens(path: str) -> None:
    answer, engine = await post(path, {"token_ids_logprob": [7, 9], "return_meta_info": True})
    assert engine.requests[0].token_ids_logprob == (7, 9) and engine.requests[0].return_logprob
    choice = answer.json()["choices"][0]
    assert choice["logprobs"] is None
    assert len(choice["meta_info"]["output_token_ids_logprobs"]) == len(IDS)
    for fields, param in (
        ({"token_ids_logprob": [7]}, "token_ids_logprob"),
        ({"token_ids_logprob": [10**6], "return_meta_info": True}, "token_ids_logprob"),
        ({"token_ids_logprob": [-1], "return_meta_info": True}, "token_ids_logprob[0]"),
    ):
        answer, _ = await post(path, fields)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == param


def states(*values: float) -> HiddenStates:
    return HiddenStates(2, np.asarray([[v, v + 0.5] for v in values], dtype="<f4").tobytes())


@pytest.mark.parametrize("path", [CHAT, PLAIN])
@pytest.mark.parametrize("stream", [False, True])
async def test_hidden_states_of_the_last_position(path: str, stream: bool) -> None:
    def script(request: Any) -> Any:
        prompt = len(request.token_ids())
        return [
            [output(request, IDS[:1], hidden_states=states(*range(prompt)))],
            [output(request, IDS[1:2], hidden_states=states(99), finish=FinishReason("length"))],
        ]

    answer, engine = await post(path, {"return_hidden_states": True, "stream": stream}, ScriptedEngine(script))
    assert engine.requests[0].return_hidden_states
    chunks = events(answer.content) if stream else [answer.json()]
    assert chunks[-1]["choices"][0]["hidden_states"] == [99.0, 99.5]
    assert all("hidden_states" not in c["choices"][0] for c in chunks[:-1])


@pytest.mark.parametrize("path", [CHAT, PLAIN])
async def test_what_every_answer_carries(path: str) -> None:
    taken = {"store": True, "metadata": {"a": "b"}, "user": "u", "safety_identifier": "s", "prompt_cache_key": "k"}
    answer, _ = await post(path, taken | {"service_tier": "auto", "return_cached_tokens_details": True})
    body = answer.json()
    assert body["metadata"] == {"weight_version": "default"} and body["service_tier"] == "default"
    details = body["usage"]["prompt_tokens_details"]
    assert details == {"cached_tokens": 2, "cached_tokens_details": {"device": 2, "host": 0}}
    answer, _ = await post(path, {"service_tier": "flex", "stream": True})
    assert all(chunk["service_tier"] == "default" for chunk in events(answer.content))
    answer, _ = await post(path, {})
    assert "service_tier" not in answer.json()


async def test_a_chat_whose_prompt_is_token_ids() -> None:
    ids = TEXT.encode("abc")
    engine = ScriptedEngine(says(TEXT, "ok", end=END))
    async with http_client(server_context(engine, TEXT)) as client:
        answer = await client.post(CHAT, json={"input_ids": ids})
        assert answer.json()["choices"][0]["message"]["content"] == "ok"
        assert engine.requests[0].token_ids().tolist() == ids
        for given in ([], [10**6], "abc", [[1]]):
            answer = await client.post(CHAT, json={"input_ids": given})
            assert answer.status_code == 400 and answer.json()["error"]["param"].startswith("input_ids")
        answer = await client.post(CHAT, json={})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "messages"
    answer, _ = await post(PLAIN, {"input_ids": ids})
    assert answer.json()["error"]["code"] == "unsupported_parameter"


async def test_thinking_sets_what_templates_ask_for() -> None:
    text = tiny_text("{% if enable_thinking %}on{% elif enable_thinking is defined %}off{% endif %}{{ messages }}")
    engine = ScriptedEngine(says(text, "ok"))
    cases: list[tuple[Any, str]] = [
        ({"thinking": True}, "on["),
        ({"thinking": {"type": "disabled"}}, "off["),
        ({"thinking": True, "chat_template_kwargs": {"enable_thinking": False}}, "off["),
        ({}, "["),
    ]
    async with http_client(server_context(engine, text)) as client:
        for fields, begin in cases:
            assert (await client.post(CHAT, json=ASK | fields)).status_code == 200
            assert text.decode(engine.requests[-1].token_ids().tolist()).startswith(begin)
        answer = await client.post(CHAT, json=ASK | {"thinking": {"type": "much"}})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "thinking"
        counted = (await client.get("/server_info")).json()["ignored_request_fields"]
        assert counted == {}


async def test_reasoning_tokens_are_counted() -> None:
    engine = ScriptedEngine(says(TEXT, "<think>hm, well</think>ok", end=END))
    context = server_context(engine, TEXT, model={"context_length": 1024})
    context.parsers = parsers(None, "qwen3")
    async with http_client(context) as client:
        usage = (await client.post(CHAT, json=ASK)).json()["usage"]
        thought = len(TEXT.encode("hm, well"))
        assert usage["reasoning_tokens"] == usage["completion_tokens_details"]["reasoning_tokens"] == thought
        answer = await client.post(CHAT, json=ASK | {"stream": True, "stream_options": {"include_usage": True}})
        assert events(answer.content)[-1]["usage"] == usage


async def test_strict_tools_need_a_grammar() -> None:
    strict = {"type": "function", "function": WEATHER["function"] | {"strict": True}}
    answer, _ = await post(CHAT, {"tools": [WEATHER, strict]})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == "tools[1].function.strict" and "grammars" in error["message"]


@pytest.mark.parametrize("name", sorted(TEMPLATES))
async def test_a_suffix_is_asked_for_as_the_model_wants_it(name: str) -> None:
    template = TEMPLATES[name]
    answer, engine = await post(
        PLAIN, {"prompt": ["a = ", "b"], "suffix": "\nc", "echo": True}, completion_template=name
    )
    assert [c["text"] for c in answer.json()["choices"]] == ["a = the quick", "bthe quick"]
    prompt = TEXT.decode(engine.requests[0].token_ids().tolist(), skip_special_tokens=False)
    hole, last = f"{template.begin}a = {template.middle}\nc{template.end}", f"{template.end}\nc{template.middle}"
    assert prompt == (f"{template.begin}a = {last}" if template.middle_last else hole)


async def test_a_suffix_that_is_refused() -> None:
    answer, _ = await post(PLAIN, {"suffix": "x"})
    error = answer.json()["error"]
    assert answer.status_code == 400 and (error["param"], error["code"]) == ("suffix", "completion_template_needed")
    for prompt in ([1, 2], [[1, 2]]):
        answer, _ = await post(PLAIN, {"prompt": prompt, "suffix": "x"}, completion_template="star_coder")
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "suffix"


async def test_completion_templates_of_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    fields = {"fim_begin_token": "<a>", "fim_middle_token": "<b>", "fim_end_token": "<c>", "fim_position": "MIDDLE"}
    file.write_text(json.dumps(fields))
    template = completion_template(str(file))
    assert template is not None and template.fill("x", "y") == "<a>x<b>y<c>"
    file.write_text(json.dumps(fields | {"fim_position": "left"}))
    large = tmp_path / "large.json"
    large.write_text(" " * 100_000)
    for name in ("nobody", str(file), str(large), str(tmp_path / "missing.json")):
        with pytest.raises(ConfigError, match="--completion-template"):
            completion_template(name)
    assert completion_template(None) is None


async def test_tokens_of_a_chat() -> None:
    for path in ("/tokenize", "/v1/tokenize"):
        answer, _ = await post(path, ASK)
        body = answer.json()
        _, engine = await post(CHAT, {})
        assert body["tokens"] == engine.requests[0].token_ids().tolist() and body["count"] == len(body["tokens"])
        with_tools, _ = await post(path, ASK | {"tools": [WEATHER], "add_generation_prompt": False})
        assert with_tools.json()["count"] > body["count"]
    answer, _ = await post("/tokenize", ASK | {"prompt": "x"})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "messages"
    answer, _ = await post("/tokenize", {"messages": []})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "messages"
    answer, _ = await post("/tokenize", {})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "prompt"


async def test_a_developers_message_is_a_system_message_where_the_template_knows_no_such_role() -> None:
    for template, shown in (("{{ messages }}", "system"), ("{# developer #}{{ messages }}", "developer")):
        text = tiny_text(template)
        engine = ScriptedEngine(says(text, "ok"))
        async with http_client(server_context(engine, text)) as client:
            asked = {"messages": [{"role": "developer", "content": "x"}]}
            assert (await client.post(CHAT, json=asked)).status_code == 200
        assert f"'role': '{shown}'" in text.decode(engine.requests[0].token_ids().tolist())
