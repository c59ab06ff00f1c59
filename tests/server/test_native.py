"""POST /generate over a scripted engine."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from server.client import events, http_client
from server.scripted import ScriptedEngine, output, says, server_context, tiny_text
from sglcore.request import FinishReason

pytestmark = pytest.mark.asyncio
TEXT = tiny_text()
END = TEXT.eos_token_ids[0]
IDS = TEXT.encode("the fox")


async def post(engine: ScriptedEngine, body: dict[str, Any], text: Any = TEXT) -> Any:
    async with http_client(server_context(engine, text)) as client:
        return await client.post("/generate", json=body)


async def test_single_answer() -> None:
    engine = ScriptedEngine(says(TEXT, "the fox", end=END))
    body = (await post(engine, {"text": "hello", "rid": "r1"})).json()
    latency = body["meta_info"].pop("e2e_latency")
    assert latency >= 0
    assert body == {
        "text": "the fox",
        "output_ids": [*IDS, END],
        "meta_info": {
            "id": "r1",
            "finish_reason": {"type": "stop", "matched": END},
            "prompt_tokens": len(TEXT.encode("hello")),
            "completion_tokens": len(IDS) + 1,
            "cached_tokens": 2,
            "cache_miss_reason": None,
            "weight_version": "default",
        },
    }
    assert engine.requests[0].sampling.max_new_tokens == 128


async def test_batch_with_a_value_for_each_prompt() -> None:
    engine = ScriptedEngine(says(TEXT, "the fox"))
    body = {
        "text": ["hello", "dog"],
        "rid": ["a", "b"],
        "sampling_params": [{"max_new_tokens": 1}, {"n": 2, "sampling_seed": 7}],
        "return_logprob": [False, True],
    }
    answers = (await post(engine, body)).json()
    assert [a["meta_info"]["id"] for a in answers] == ["a", "b", "b"]
    assert [a["output_ids"] for a in answers] == [IDS[:1], IDS, IDS]
    assert answers[0]["meta_info"]["finish_reason"] == {"type": "length", "length": 1}
    assert ["output_token_logprobs" in a["meta_info"] for a in answers] == [False, True, True]
    assert [r.sampling.seed for r in engine.requests] == [None, 7]


async def test_one_rid_for_a_batch_is_a_prefix() -> None:
    engine = ScriptedEngine(says(TEXT, "x"))
    await post(engine, {"input_ids": [IDS, IDS], "rid": "r"})
    assert [r.rid for r in engine.requests] == ["r_0", "r_1"]


async def test_stream_is_cumulative() -> None:
    engine = ScriptedEngine(says(TEXT, "the fox"))
    chunks = events((await post(engine, {"input_ids": IDS, "stream": True})).content)
    assert [c["output_ids"] for c in chunks] == [IDS[: i + 1] for i in range(len(IDS))]
    assert chunks[-1]["text"] == "the fox"
    assert all(b["text"].startswith(a["text"]) for a, b in pairwise(chunks))
    assert [c["meta_info"]["finish_reason"] for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert "index" not in chunks[0]


async def test_stream_of_a_batch_has_indices() -> None:
    engine = ScriptedEngine(says(TEXT, "the fox"))
    body = {"text": ["a", "b"], "sampling_params": {"n": 2}, "stream": True}
    last = {c["index"]: c for c in events((await post(engine, body)).content)}
    assert {i: c["text"] for i, c in last.items()} == dict.fromkeys(range(4), "the fox")


async def test_logprobs_of_input_and_output() -> None:
    engine = ScriptedEngine(says(TEXT, "the fox"))
    body = {
        "text": "hello",
        "return_logprob": True,
        "logprob_start_len": 0,
        "top_logprobs_num": 2,
        "return_text_in_logprobs": True,
    }
    meta = (await post(engine, body)).json()["meta_info"]
    prompt = TEXT.encode("hello")
    assert [one[:2] for one in meta["output_token_logprobs"]] == [[-0.25 * (i + 1), t] for i, t in enumerate(IDS)]
    assert meta["output_token_logprobs"][0][2] == TEXT.decode(IDS[:1])
    assert [one[1] for one in meta["input_token_logprobs"]] == prompt
    assert meta["input_token_logprobs"][0][0] is None
    assert meta["input_top_logprobs"][0] is None
    assert meta["output_top_logprobs"][0] == [[-0.5, 10, TEXT.decode([10])], [-1.5, 11, TEXT.decode([11])]]


async def test_logprobs_of_the_output_alone() -> None:
    engine = ScriptedEngine(says(TEXT, "the fox"))
    meta = (await post(engine, {"text": "hello", "return_logprob": True})).json()["meta_info"]
    assert meta["input_token_logprobs"] == []
    assert meta["output_token_logprobs"][0] == [-0.25, IDS[0], None]
    assert "output_top_logprobs" not in meta


async def test_abort_is_a_finish_reason() -> None:
    engine = ScriptedEngine(lambda r: [[output(r, IDS, finish=FinishReason("abort", None, "by request"))]])
    body = (await post(engine, {"text": "hello"})).json()
    assert body["meta_info"]["finish_reason"] == {"type": "abort", "message": "by request", "status_code": None}


async def test_without_a_tokenizer_ids_go_in_and_out() -> None:
    engine = ScriptedEngine(says(TEXT, "the fox"))
    body = (await post(engine, {"input_ids": IDS}, text=None)).json()
    assert body["output_ids"] == IDS
    assert "text" not in body
    for refused in ({"text": "hello"}, {"input_ids": IDS, "sampling_params": {"stop": "x"}}):
        answer = await post(engine, refused, text=None)
        assert answer.status_code == 400
        assert "--skip-tokenizer-init" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body, param",
    [
        ({}, "text"),
        ({"text": "a", "input_ids": [1]}, "text"),
        ({"text": []}, "text"),
        ({"text": ""}, "text"),
        ({"text": 3}, "text"),
        ({"input_ids": []}, "input_ids"),
        ({"input_ids": [1, 10**6]}, "input_ids"),
        ({"input_ids": [-1]}, "input_ids"),
        ({"input_ids": [True]}, "input_ids"),
        ({"input_ids": [[1], []]}, "input_ids[1]"),
        ({"text": ["a", "b"], "rid": ["x"]}, "rid"),
        ({"text": ["a", "b"], "rid": ["x", "x"]}, "rid"),
        ({"text": ["a", "b"], "sampling_params": [{}]}, "sampling_params"),
        ({"text": "a", "sampling_params": {"temperature": -1}}, "sampling_params.temperature"),
        ({"text": "a", "sampling_params": {"temperature": "hot"}}, "sampling_params.temperature"),
        ({"text": "a", "sampling_params": {"top_p": 0}}, "sampling_params.top_p"),
        ({"text": "a", "sampling_params": {"top_p": 1.1}}, "sampling_params.top_p"),
        ({"text": "a", "sampling_params": {"top_k": 0}}, "sampling_params.top_k"),
        ({"text": "a", "sampling_params": {"top_k": -2}}, "sampling_params.top_k"),
        ({"text": "a", "sampling_params": {"min_p": 2}}, "sampling_params.min_p"),
        ({"text": "a", "sampling_params": {"max_new_tokens": -1}}, "sampling_params.max_new_tokens"),
        ({"text": "a", "sampling_params": {"max_new_tokens": 300}}, "sampling_params.max_new_tokens"),
        ({"text": "a", "sampling_params": {"n": 129}}, "sampling_params.n"),
        ({"text": "a", "sampling_params": {"regex": "a+"}}, "sampling_params.regex"),
        ({"text": "a", "sampling_params": {"sampling_seed": 2**63}}, "sampling_params.sampling_seed"),
        ({"text": "a", "return_logprob": True, "logprob_start_len": -2}, "logprob_start_len"),
        ({"text": "a", "return_logprob": True, "logprob_start_len": 99}, "logprob_start_len"),
        ({"text": "a", "top_logprobs_num": 10**6}, "top_logprobs_num"),
        ({"text": "a", "lora_path": "x"}, "lora_path"),
        ({"text": "a", "image_data": "x"}, "image_data"),
        ({"text": "a", "session_params": {"id": ""}}, "session_params.id"),
        ({"text": ["a"] * 100, "sampling_params": {"n": 128}}, "n"),
    ],
)
async def test_refusals(body: dict[str, Any], param: str) -> None:
    engine = ScriptedEngine(says(TEXT, "x"))
    answer = await post(engine, body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert answer.json()["error"]["message"]
    assert engine.requests == []


async def test_why_the_cache_had_no_more_is_told() -> None:
    engine = ScriptedEngine(lambda r: [[output(r, [5], cache_miss=3, finish=FinishReason("length"))]])
    body = (await post(engine, {"text": "hello"})).json()
    assert body["meta_info"]["cache_miss_reason"] == "evicted"


async def test_the_tenant_is_the_header_or_the_field() -> None:
    engine = ScriptedEngine(says(TEXT, "the fox", end=END))
    async with http_client(server_context(engine, TEXT)) as client:
        body = {"text": "hello", "tenant": "ann"}
        await client.post("/generate", json=body)
        await client.post("/generate", json=body, headers={"X-Tenant": "bob"})
        refused = await client.post("/generate", json=body, headers={"X-Tenant": "b" * 257})
        openai = {"prompt": "hello", "model": "tiny"}
        await client.post("/v1/completions", json=openai, headers={"X-Tenant": "cy"})
        chat = {"messages": [{"role": "user", "content": "hi"}], "tenant": "dan"}
        await client.post("/v1/chat/completions", json=chat)
    assert [r.tenant for r in engine.requests] == ["ann", "bob", "cy", "dan"]
    assert refused.status_code == 400 and "`tenant`" in refused.json()["error"]["message"]
