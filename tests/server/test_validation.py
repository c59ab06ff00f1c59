"""What the OpenAI dialect refuses, with which field, and what it lets pass."""

from __future__ import annotations

from typing import Any

import pytest

from server.client import http_client
from server.scripted import ScriptedEngine, says, server_context, tiny_text
from sglcore.server.metrics import MAX_FIELDS

pytestmark = pytest.mark.asyncio
TEXT = tiny_text()
CHAT = "/v1/chat/completions"
PLAIN = "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]


async def post(path: str, body: Any, *, raw: bytes | None = None) -> tuple[Any, ScriptedEngine]:
    engine = ScriptedEngine(says(TEXT, "x"))
    base = {"messages": HELLO} if path == CHAT else {"prompt": "hello"}
    async with http_client(server_context(engine, TEXT)) as client:
        if raw is not None:
            return await client.post(path, content=raw), engine
        return await client.post(path, json=base | body), engine


@pytest.mark.parametrize(
    "field, value, param",
    [
        ("temperature", "hot", "temperature"),
        ("temperature", -0.1, "temperature"),
        ("temperature", True, "temperature"),
        ("top_p", 0, "top_p"),
        ("top_p", 1.5, "top_p"),
        ("top_k", 0, "top_k"),
        ("top_k", 2**31, "top_k"),
        ("top_k", 1.5, "top_k"),
        ("min_p", -1, "min_p"),
        ("n", 0, "n"),
        ("n", 129, "n"),
        ("n", 10**30, "n"),
        ("max_tokens", -1, "max_tokens"),
        ("max_tokens", 0, "max_tokens"),
        ("max_tokens", 10**9, "max_tokens"),
        ("max_tokens", "many", "max_tokens"),
        ("seed", 2**63, "seed"),
        ("seed", 1.5, "seed"),
        ("stop", "", "stop"),
        ("stop", 3, "stop"),
        ("stop", ["x"] * 65, "stop"),
        ("stop", ["x" * 1025], "stop[0]"),
        ("stop", [c * 1000 for c in "abcdefghi"], "stop"),
        ("stop_token_ids", [-1], "stop_token_ids[0]"),
        ("stop_token_ids", [10**6], "stop_token_ids"),
        ("stop_token_ids", [1] * 1025, "stop_token_ids"),
        ("stop_token_ids", [1] * 10_000, "stop_token_ids"),
        ("stop", ["x"] * 10_000, "stop"),
        ("stop_regex", "x" * 513, "stop_regex"),
        ("stop_regex", ["x"] * 17, "stop_regex"),
        ("stop_regex", "(?=a)b", "stop_regex"),
        ("stop_regex", "(a*", "stop_regex"),
        ("frequency_penalty", 2.1, "frequency_penalty"),
        ("frequency_penalty", -2.1, "frequency_penalty"),
        ("presence_penalty", 1e30, "presence_penalty"),
        ("presence_penalty", "much", "presence_penalty"),
        ("repetition_penalty", 0, "repetition_penalty"),
        ("repetition_penalty", 2.5, "repetition_penalty"),
        ("logit_bias", {"1": 101}, "logit_bias[...]"),
        ("logit_bias", {"1": -1e9}, "logit_bias[...]"),
        ("logit_bias", {"1000000": 1}, "logit_bias"),
        ("logit_bias", {"-1": 1}, "logit_bias"),
        ("logit_bias", {"x": 1}, "logit_bias"),
        ("logit_bias", {"9" * 5000: 1}, "logit_bias"),
        ("logit_bias", {str(i): 1 for i in range(1025)}, "logit_bias"),
        ("logit_bias", [1], "logit_bias"),
        ("min_tokens", -1, "min_tokens"),
        ("min_tokens", 10**6, "min_tokens"),
        ("custom_logit_processor", "80049529", "custom_logit_processor"),
        ("custom_params", {"a": 1}, "custom_params"),
        ("custom_params", "x", "custom_params"),
        ("stream", "yes", "stream"),
        ("stream_options", {"include_usage": "yes"}, "stream_options.include_usage"),
        ("rid", "", "rid"),
        ("rid", "x" * 257, "rid"),
        ("priority", 2**31, "priority"),
        ("ignore_eos", 1, "ignore_eos"),
        ("cache_salt", 1, "cache_salt"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, PLAIN])
async def test_wrong_values_are_named(path: str, field: str, value: Any, param: str) -> None:
    answer, engine = await post(path, {field: value})
    error = answer.json()["error"]
    assert answer.status_code == 400, answer.text
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert field in error["message"]
    assert engine.requests == []


@pytest.mark.parametrize(
    "field, value, family",
    [
        ("regex", "a+", "grammars"),
        ("ebnf", "root ::= x", "grammars"),
        ("json_schema", "{}", "grammars"),
        ("structural_tag", "x", "grammars"),
        ("response_format", {"type": "json_object"}, "grammars"),
        ("response_format", {"type": "json_schema", "json_schema": {}}, "grammars"),
        ("lora_path", "x", "adapters"),
        ("return_spec_tokens_details", True, "speculators"),
        ("web_search_options", {"x": 1}, "tools (web search)"),
        ("task", "embed", "models (embedding"),
        ("best_of", 3, "logits_processors"),
        ("modalities", ["text", "audio"], "models (audio)"),
        ("audio", {"voice": "x"}, "models (audio)"),
        ("chat_template", "{{ x }}", "chat_formats"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, PLAIN])
async def test_absent_features_are_refused(path: str, field: str, value: Any, family: str) -> None:
    answer, engine = await post(path, {field: value})
    error = answer.json()["error"]
    assert answer.status_code == 400, answer.text
    assert (error["param"], error["code"]) == (field, "unsupported_parameter")
    assert family in error["message"]
    assert engine.requests == []


@pytest.mark.parametrize(
    "field, value",
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),
    ],
)
async def test_plain_completions_have_no_tools(field: str, value: Any) -> None:
    answer, _ = await post(PLAIN, {field: value})
    assert answer.status_code == 400
    assert "/v1/chat/completions" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"frequency_penalty": 0, "presence_penalty": 0.0, "repetition_penalty": 1.0, "logit_bias": {}},
        {"tool_choice": "none", "tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": "auto", "tools": []},
        {"response_format": {"type": "text"}, "min_tokens": 0, "regex": "", "suffix": ""},
        {"best_of": 1, "return_hidden_states": False, "modalities": ["text"]},
        {"n": 2, "best_of": 2},
        {"temperature": None, "stop": None, "tools": None, "seed": None, "stop_token_ids": []},
        {"model": "org/tiny-model"},
        {"model": "default"},
        {"model": "tiny"},
        {"model": ""},
        {"user": "someone", "store": False},
    ],
)
@pytest.mark.parametrize("path", [CHAT, PLAIN])
async def test_neutral_values_pass(path: str, fields: dict[str, Any]) -> None:
    answer, engine = await post(path, fields)
    assert answer.status_code == 200, answer.text
    assert len(engine.requests) == 1


@pytest.mark.parametrize("path", [CHAT, PLAIN])
@pytest.mark.parametrize(
    "model, status, code", [("gpt-4", 404, "model_not_found"), ("tiny:pirate", 400, "unsupported_parameter")]
)
async def test_models(path: str, model: str, status: int, code: str) -> None:
    answer, _ = await post(path, {"model": model})
    assert answer.status_code == status
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == ("model", code)


@pytest.mark.parametrize(
    "path, body, param",
    [
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": "hi"}, "messages"),
        (CHAT, {"messages": [3]}, "messages[0]"),
        (CHAT, {"messages": [{"role": "user", "content": "x " * 400}]}, "messages"),
        (CHAT, {"top_logprobs": 2}, "top_logprobs"),
        (CHAT, {"logprobs": 2}, "logprobs"),
        (CHAT, {"logprobs": True, "top_logprobs": 129}, "top_logprobs"),
        (CHAT, {"max_completion_tokens": 0}, "max_completion_tokens"),
        (CHAT, {"max_completion_tokens": 256}, "max_completion_tokens"),
        (CHAT, {"echo": True}, "echo"),
        (PLAIN, {"prompt": ""}, "prompt"),
        (PLAIN, {"prompt": []}, "prompt"),
        (PLAIN, {"prompt": 3}, "prompt"),
        (PLAIN, {"prompt": [1, 10**6]}, "prompt"),
        (PLAIN, {"prompt": [1, "a"]}, "prompt"),
        (PLAIN, {"prompt": [[1], [-1]]}, "prompt[1]"),
        (PLAIN, {"prompt": ["a", ""]}, "prompt[1]"),
        (PLAIN, {"prompt": ["a"] * 1025}, "prompt"),
        (PLAIN, {"prompt": [1] * 256}, "prompt"),
        (PLAIN, {"prompt": [1] * 250, "max_tokens": 7}, "max_tokens"),
        (PLAIN, {"logprobs": True}, "logprobs"),
        (PLAIN, {"top_logprobs": 3}, "top_logprobs"),
    ],
)
async def test_prompts_and_bounds(path: str, body: dict[str, Any], param: str) -> None:
    answer, engine = await post(path, body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert engine.requests == []


async def test_length_refusals_name_the_numbers() -> None:
    answer, _ = await post(PLAIN, {"prompt": [1] * 250, "max_tokens": 7})
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert all(number in answer.json()["error"]["message"] for number in ("250", "7", "256", "at most 6"))


async def test_a_default_shrinks_to_what_fits() -> None:
    answer, engine = await post(PLAIN, {"prompt": [1] * 250})
    assert answer.status_code == 200
    assert engine.requests[0].sampling.max_new_tokens == 6


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[1]",
        b'"text"',
        b"null",
        b'{"messages": [], "temperature": NaN}',
        b'{"messages": [], "temperature": Infinity}',
        b'{"messages": [], "temperature": 1e999}',
        b'{"messages": "\xff"}',
        b'{"messages": "\\ud800"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
@pytest.mark.parametrize("path", [CHAT, PLAIN, "/generate", "/tokenize"])
async def test_bodies_that_are_no_json_object(path: str, raw: bytes) -> None:
    answer, engine = await post(path, None, raw=raw)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == "invalid_json"
    assert engine.requests == []


async def test_ignored_fields_are_counted_with_bounded_names() -> None:
    engine = ScriptedEngine(says(TEXT, "x"))
    async with http_client(server_context(engine, TEXT)) as client:
        for i in range(MAX_FIELDS + 20):
            answer = await client.post(PLAIN, json={"prompt": "a", f"odd_{i}": 1, "Not A Name\n": 1, "user": "u"})
            assert answer.status_code == 200
        counts = (await client.get("/server_info")).json()["ignored_request_fields"]
        metrics = (await client.get("/metrics")).text
    assert len(counts) <= MAX_FIELDS + 1
    assert counts["odd_0"] == 1
    assert counts["other"] > MAX_FIELDS
    assert "user" not in counts
    assert 'sglcore:ignored_request_fields_total{field="odd_0",model_name="tiny"} 1.0' in metrics


async def test_duplicate_rids_in_flight_are_refused() -> None:
    answer, _ = await post(PLAIN, {"prompt": ["a", "b"], "rid": "r"})
    assert answer.status_code == 200
    import asyncio

    from server.scripted import HANG

    engine = ScriptedEngine(lambda r: [HANG, *says(TEXT, "x")(r)])
    async with http_client(server_context(engine, TEXT)) as client:
        first = asyncio.ensure_future(client.post(PLAIN, json={"prompt": "a", "rid": "same"}))
        await engine.hanging.wait()
        second = await asyncio.wait_for(client.post(PLAIN, json={"prompt": "a", "rid": "same"}), 5)
        engine.released.set()
        assert (await first).status_code == 200
        again = await client.post(PLAIN, json={"prompt": "a", "rid": "same"})
    assert second.status_code == 400
    assert second.json()["error"]["param"] == "rid"
    assert again.status_code == 200
