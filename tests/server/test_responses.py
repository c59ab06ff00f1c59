"""POST /v1/responses over a scripted engine, and what is asked of responses that are kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from server.client import http_client
from server.parsing import CALL, SECOND, TEXT, parsers
from server.scripted import HANG, ScriptedEngine, output, says, server_context
from sglcore.errors import EngineDead, RequestError
from sglcore.request import FinishReason, GenerateRequest

pytestmark = pytest.mark.asyncio
PATH = "/v1/responses"
END = TEXT.eos_token_ids[0]
WROTE = f"<think>I look it up.</think>Well: {CALL}\n{SECOND}"
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "name": "get_weather", "parameters": {"type": "object"}, "strict": False},
    {"type": "function", "name": "now"},
]


def script(request: GenerateRequest) -> Iterable[Any]:
    """Calls; text once the prompt holds a tool's answer; nothing but waiting where the prompt says so."""
    prompt = TEXT.decode(request.token_ids().tolist())
    if "wait for ever" in prompt:
        return [[output(request, TEXT.encode("the"))], HANG]
    return says(TEXT, "It rains." if "<tool_response>" in prompt else WROTE, end=END)(request)


def client_of(engine: ScriptedEngine, **flags: Any) -> httpx.AsyncClient:
    context = server_context(engine, TEXT, model={"context_length": 2048}, **flags)
    return http_client(replace(context, parsers=parsers("hermes", "qwen3")))


def prompt_of(engine: ScriptedEngine, index: int = -1) -> str:
    return TEXT.decode(engine.requests[index].token_ids().tolist(), skip_special_tokens=False)


def streamed(text: str) -> list[dict[str, Any]]:
    """The events of a stream, checked for framing and numbers."""
    events = []
    parts = text.split("\n\n")
    assert parts[-1] == ""
    for number, part in enumerate(parts[:-1]):
        name, data = part.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}" and event["sequence_number"] == number
        events.append(event)
    return events


def shape(item: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in item.items() if k != "id" and not (k == "call_id" and v.startswith("call_"))}


OUTPUT: list[dict[str, Any]] = [
    {
        "type": "reasoning",
        "status": "completed",
        "summary": [],
        "encrypted_content": None,
        "content": [{"type": "reasoning_text", "text": "I look it up."}],
    },
    {
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Well:", "annotations": [], "logprobs": []}],
    },
    {
        "type": "function_call",
        "status": "completed",
        "name": "get_weather",
        "arguments": '{"city": "Zürich 🎉"}',
    },
    {"type": "function_call", "status": "completed", "name": "now", "arguments": "{}"},
]


async def test_a_whole_response() -> None:
    engine = ScriptedEngine(script)
    async with client_of(engine) as client:
        asked = {"input": "Weather?", "instructions": "Be brief.", "tools": TOOLS, "metadata": {"a": "b"}, "seed": 3}
        body = (await client.post(PATH, json=asked)).json()
        assert body["id"].startswith("resp_") and body["object"] == "response" and body["status"] == "completed"
        assert [shape(item) for item in body["output"]] == OUTPUT
        assert len({item["id"] for item in body["output"]}) == 4
        assert body["instructions"] == "Be brief." and body["metadata"] == {"a": "b"} and body["tools"] == TOOLS
        assert body["usage"]["input_tokens"] == len(engine.requests[0].token_ids())
        assert body["usage"]["input_tokens_details"] == {"cached_tokens": 2}
        assert body["usage"]["output_tokens_details"]["reasoning_tokens"] == len(TEXT.encode("I look it up."))
        assert "Be brief." in prompt_of(engine) and engine.requests[0].sampling.seed == 3
        assert (await client.get(f"{PATH}/{body['id']}")).json() == body


async def test_a_streamed_response() -> None:
    async with client_of(ScriptedEngine(script)) as client:
        answer = await client.post(PATH, json={"input": "Weather?", "tools": TOOLS, "stream": True})
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = streamed(answer.text)
        kinds = [event["type"] for event in events]
        assert [kind for i, kind in enumerate(kinds) if kind != kinds[i - 1]] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.reasoning_text.delta",
            "response.reasoning_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert events[0]["response"]["status"] == "in_progress" and events[0]["response"]["output"] == []
        whole = events[-1]["response"]
        assert [shape(item) for item in whole["output"]] == OUTPUT
        assert [e["item"] for e in events if e["type"] == "response.output_item.done"] == whole["output"]
        said = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
        assert len(said) > 1 and "".join(said) == "Well:"
        assert (await client.get(f"{PATH}/{whole['id']}")).json() == whole


async def test_a_conversation_goes_on() -> None:
    engine = ScriptedEngine(script)
    async with client_of(engine) as client:
        first = (await client.post(PATH, json={"input": "Weather?", "instructions": "Once.", "tools": TOOLS})).json()
        call = first["output"][2]["call_id"]
        asked = {
            "previous_response_id": first["id"],
            "input": [{"type": "function_call_output", "call_id": call, "output": "rain"}],
            "tools": TOOLS,
        }
        second = (await client.post(PATH, json=asked)).json()
        assert second["output"][0]["content"][0]["text"] == "It rains."
        assert second["previous_response_id"] == first["id"]
        prompt = prompt_of(engine)
        assert "Weather?" in prompt and '"city": "Zürich 🎉"' in prompt and "<tool_response>\nrain" in prompt
        assert "Once." not in prompt  # instructions are of one response
        third = await client.post(PATH, json={"previous_response_id": second["id"], "input": "Thanks"})
        assert third.status_code == 200 and "It rains." in prompt_of(engine)


async def test_items_of_all_kinds_make_messages() -> None:
    engine = ScriptedEngine(says(TEXT, "ok", end=END))
    call = {"type": "function_call", "call_id": "c1", "name": "now", "arguments": "{}"}
    items: list[Any] = [
        {"role": "developer", "content": "First."},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "c"}]},
        call,
        call | {"call_id": "c2"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "noon"}]},
        {"role": "user", "content": "d"},
    ]
    async with client_of(engine) as client:
        body = (await client.post(PATH, json={"input": items, "instructions": "Zeroth.", "tools": TOOLS[1:]})).json()
        prompt = prompt_of(engine)
        assert "<|im_start|>system\nZeroth.\n\nFirst.<|im_end|>" in prompt
        assert "<|im_start|>user\nab<|im_end|>" in prompt and prompt.count('{"name": "now", "arguments": {}}') == 2
        assert prompt.count("<|im_start|>assistant") == 2  # thoughts, text and calls are one message; then the answer
        listed = (await client.get(f"{PATH}/{body['id']}/input_items?order=asc")).json()
        assert listed["object"] == "list" and len(listed["data"]) == 8 and not listed["has_more"]
        assert listed["data"][0]["content"] == [{"type": "input_text", "text": "First."}]
        page = (await client.get(f"{PATH}/{body['id']}/input_items?limit=3")).json()
        assert [i["id"] for i in page["data"]] == [i["id"] for i in listed["data"][:4:-1]] and page["has_more"]
        rest = await client.get(f"{PATH}/{body['id']}/input_items?limit=100&after={page['last_id']}")
        assert len(rest.json()["data"]) == 5
        for query in ("limit=0", "limit=x", "limit=²", "order=up", "after=nobody"):
            assert (await client.get(f"{PATH}/{body['id']}/input_items?{query}")).status_code == 400


async def test_an_answer_that_is_cut_is_incomplete() -> None:
    async with client_of(ScriptedEngine(script)) as client:
        body = (await client.post(PATH, json={"input": "x", "max_output_tokens": 5})).json()
        assert body["status"] == "incomplete" and body["incomplete_details"] == {"reason": "max_output_tokens"}
        assert body["output"][-1]["status"] == "incomplete" and body["usage"]["output_tokens"] == 5
        events = streamed((await client.post(PATH, json={"input": "x", "max_output_tokens": 5, "stream": True})).text)
        assert events[-1]["type"] == "response.incomplete"


async def test_logprobs_come_with_the_text() -> None:
    engine = ScriptedEngine(says(TEXT, "the quick", end=END))
    asked = {"input": "x", "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    tokens = len(TEXT.encode("the quick"))
    async with client_of(engine) as client:
        body = (await client.post(PATH, json=asked)).json()
        shown = body["output"][0]["content"][0]["logprobs"]
        assert len(shown) >= tokens and len(shown[0]["top_logprobs"]) == 2 and shown[0]["logprob"] == -0.25
        events = streamed((await client.post(PATH, json=asked | {"stream": True})).text)
        deltas = [e for e in events if e["type"] == "response.output_text.delta"]
        assert sum(len(e["logprobs"]) for e in deltas) >= tokens and all(e["logprobs"] for e in deltas)


@pytest.mark.parametrize(
    "fields, param, code",
    [
        ({"input": 3}, "input", None),
        ({"input": []}, "input", None),
        ({"input": [3]}, "input[0]", None),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role", None),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", "unsupported_parameter"),
        ({"input": [{"type": ["list"]}]}, "input[0].type", "unsupported_parameter"),
        ({"input": [{"type": "function_call", "name": "x"}]}, "input[0].arguments", None),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0]", None),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0]",
            "unsupported_parameter",
        ),
        ({"tools": [{"type": "web_search_preview"}]}, "tools[0].type", "unsupported_parameter"),
        ({"tools": [{}]}, "tools[0].type", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", None),
        ({"tools": [TOOLS[0] | {"strict": True}]}, "tools[0].strict", "unsupported_parameter"),
        ({"tools": TOOLS, "tool_choice": "required"}, "tool_choice", "unsupported_parameter"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "now"}}, "tool_choice", "unsupported_parameter"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "other"}}, "tool_choice", None),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, "tool_choice", "unsupported_parameter"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format", "unsupported_parameter"),
        ({"max_output_tokens": 0}, "max_output_tokens", None),
        ({"max_output_tokens": 10**6}, "max_output_tokens", "context_length_exceeded"),
        ({"input": "the " * 5000}, "input", "context_length_exceeded"),
        ({"temperature": -1}, "temperature", None),
        ({"top_k": -7}, "top_k", None),
        ({"include": ["secrets"]}, "include", None),
        ({"metadata": {str(i): "x" for i in range(17)}}, "metadata", None),
        ({"truncation": "some"}, "truncation", None),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"prompt": {"id": "x"}}, "prompt", "unsupported_parameter"),
        ({"previous_response_id": "resp_no"}, "previous_response_id", "previous_response_not_found"),
        ({"background": True, "store": False}, "store", None),
        ({"background": True, "stream": True}, "stream", "unsupported_parameter"),
        ({"model": "other"}, "model", "model_not_found"),
    ],
)
async def test_what_is_refused(fields: dict[str, Any], param: str, code: str | None) -> None:
    engine = ScriptedEngine(script)
    async with client_of(engine) as client:
        answer = await client.post(PATH, json={"input": "x"} | fields)
        error = answer.json()["error"]
        assert 400 <= answer.status_code < 500, answer.text
        assert (error["param"], error["code"]) == (param, code)
        assert "messages" not in error["message"] and "max_completion" not in error["message"]
    assert engine.requests == []


async def test_what_clients_send_by_habit_is_taken() -> None:
    engine = ScriptedEngine(says(TEXT, "ok", end=END))
    habits: dict[str, Any] = {
        "include": ["reasoning.encrypted_content"],
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "truncation": "auto",
        "service_tier": "auto",
        "store": False,
        "parallel_tool_calls": True,
        "max_tool_calls": 3,
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "user": "u",
        "stream_options": {"include_obfuscation": False},
        "temperature": None,
    }
    async with client_of(engine) as client:
        body = (await client.post(PATH, json={"input": "x"} | habits)).json()
        assert body["status"] == "completed" and body["reasoning"]["effort"] == "low"
        assert (await client.get(f"{PATH}/{body['id']}")).status_code == 404  # not stored
        counted = (await client.get("/server_info")).json()["ignored_request_fields"]
        assert not set(counted) & set(habits)


async def test_prompts_are_counted() -> None:
    engine = ScriptedEngine(script)
    async with client_of(engine) as client:
        asked = {"input": "Weather?", "tools": TOOLS, "instructions": "x"}
        counted = (await client.post(f"{PATH}/input_tokens", json=asked)).json()
        assert engine.requests == []
        body = (await client.post(PATH, json=asked)).json()
        assert counted == {"object": "response.input_tokens", "input_tokens": body["usage"]["input_tokens"]}
        refused = await client.post(f"{PATH}/input_tokens", json={})
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "input"


async def test_a_refusal_of_the_engine_is_a_status() -> None:
    engine = ScriptedEngine(lambda r: [RequestError("full", status=429, retry_after=4)])
    async with client_of(engine) as client:
        for stream in (False, True):
            answer = await client.post(PATH, json={"input": "x", "stream": stream})
            assert answer.status_code == 429 and answer.headers["retry-after"] == "4"


async def test_a_failure_on_the_way_is_an_event_and_kept() -> None:
    engine = ScriptedEngine(lambda r: [[output(r, TEXT.encode("the"))], EngineDead("It died.")])
    async with client_of(engine) as client:
        events = streamed((await client.post(PATH, json={"input": "x", "stream": True})).text)
        assert events[-1]["type"] == "response.failed"
        failed = events[-1]["response"]
        assert failed["status"] == "failed" and failed["error"]["code"] == "server_error"
        assert failed["output"][0]["status"] == "incomplete"
        assert (await client.get(f"{PATH}/{failed['id']}")).json() == failed
        assert (await client.post(PATH, json={"input": "x"})).status_code == 503


async def test_an_abort_fails_the_response() -> None:
    engine = ScriptedEngine(lambda r: [[output(r, TEXT.encode("the"), finish=FinishReason("abort", message="No."))]])
    async with client_of(engine) as client:
        body = (await client.post(PATH, json={"input": "x"})).json()
        assert body["status"] == "failed" and body["error"] == {"code": "server_error", "message": "No."}


async def until(client: httpx.AsyncClient, name: str, *states: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            body: dict[str, Any] = (await client.get(f"{PATH}/{name}")).json()
            if body["status"] in states:
                return body
            await asyncio.sleep(0)


async def test_a_background_response() -> None:
    async with client_of(ScriptedEngine(script)) as client:
        begun = (await client.post(PATH, json={"input": "x", "tools": TOOLS, "background": True})).json()
        assert begun["status"] == "queued" and begun["background"] and begun["output"] == []
        done = await until(client, begun["id"], "completed")
        assert [shape(item) for item in done["output"]] == OUTPUT
        again = await client.post(f"{PATH}/{begun['id']}/cancel")
        assert again.status_code == 200 and again.json() == done


async def test_a_background_response_that_fails_is_kept_so() -> None:
    engine = ScriptedEngine(lambda r: [RequestError("full", status=429)])
    async with client_of(engine) as client:
        begun = (await client.post(PATH, json={"input": "x", "background": True})).json()
        failed = await until(client, begun["id"], "failed")
        assert failed["error"] == {"code": "rate_limit_exceeded", "message": "full"}


@pytest.mark.parametrize("early", [False, True])
async def test_a_background_response_is_cancelled(early: bool) -> None:
    engine = ScriptedEngine(script)
    async with client_of(engine) as client:
        begun = (await client.post(PATH, json={"input": "wait for ever", "background": True})).json()
        unfinished = await client.post(PATH, json={"input": "x", "previous_response_id": begun["id"]})
        assert unfinished.status_code == 400
        if not early:
            await asyncio.wait_for(engine.hanging.wait(), 20)
        cancelled = (await client.post(f"{PATH}/{begun['id']}/cancel")).json()
        assert cancelled["status"] == "cancelled"
        assert (await client.get(f"{PATH}/{begun['id']}")).json() == cancelled
        assert early or engine.left == [begun["id"]]


async def test_deleting_ends_and_forgets() -> None:
    engine = ScriptedEngine(script)
    async with client_of(engine) as client:
        begun = (await client.post(PATH, json={"input": "wait for ever", "background": True})).json()
        await asyncio.wait_for(engine.hanging.wait(), 20)
        deleted = await client.delete(f"{PATH}/{begun['id']}")
        assert deleted.json() == {"id": begun["id"], "object": "response", "deleted": True}
        assert engine.left == [begun["id"]]
        for answer in (
            await client.get(f"{PATH}/{begun['id']}"),
            await client.delete(f"{PATH}/{begun['id']}"),
            await client.post(f"{PATH}/{begun['id']}/cancel"),
            await client.get(f"{PATH}/{begun['id']}/input_items"),
        ):
            assert answer.status_code == 404 and answer.json()["error"]["code"] == "response_not_found"


async def test_what_is_not_in_background_is_not_cancelled() -> None:
    async with client_of(ScriptedEngine(script)) as client:
        body = (await client.post(PATH, json={"input": "x"})).json()
        refused = await client.post(f"{PATH}/{body['id']}/cancel")
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "not_in_background"
        assert (await client.get(f"{PATH}/{body['id']}?stream=true")).status_code == 400


async def test_without_a_store_nothing_is_kept_or_continued() -> None:
    async with client_of(ScriptedEngine(script), response_store_size=0) as client:
        body = (await client.post(PATH, json={"input": "x"})).json()
        assert body["status"] == "completed" and body["store"] is False
        missing = (await client.get(f"{PATH}/{body['id']}")).json()["error"]
        assert "--response-store-size" in missing["message"]
        for field in ({"background": True}, {"previous_response_id": body["id"]}):
            refused = (await client.post(PATH, json={"input": "x"} | field)).json()["error"]
            assert refused["code"] == "store_off" and refused["param"] in field


async def test_tenants_do_not_find_each_others_responses() -> None:
    async with client_of(ScriptedEngine(script)) as client:
        mine, other = {"x-tenant": "a"}, {"x-tenant": "b"}
        body = (await client.post(PATH, json={"input": "x"}, headers=mine)).json()
        assert (await client.get(f"{PATH}/{body['id']}", headers=mine)).status_code == 200
        assert (await client.get(f"{PATH}/{body['id']}", headers=other)).status_code == 404
        assert (await client.delete(f"{PATH}/{body['id']}")).status_code == 404
        asked = {"input": "x", "previous_response_id": body["id"]}
        assert (await client.post(PATH, json=asked, headers=other)).status_code == 400
