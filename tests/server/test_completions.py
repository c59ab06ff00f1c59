"""POST /v1/completions over a scripted engine."""

from __future__ import annotations

from typing import Any

import pytest

from server.client import events, http_client
from server.scripted import ScriptedEngine, says, server_context, tiny_text

pytestmark = pytest.mark.asyncio
TEXT = tiny_text()


async def post(engine: ScriptedEngine, body: dict[str, Any]) -> Any:
    async with http_client(server_context(engine, TEXT)) as client:
        return await client.post("/v1/completions", json=body)


@pytest.mark.parametrize(
    "prompt, prompts",
    [
        ("hello", ["hello"]),
        (["hello", "the fox"], ["hello", "the fox"]),
        (TEXT.encode("hello"), ["hello"]),
        ([TEXT.encode("hello"), TEXT.encode("the fox")], ["hello", "the fox"]),
        (["hello", TEXT.encode("the fox")], ["hello", "the fox"]),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_every_kind_of_prompt(prompt: Any, prompts: list[str], stream: bool) -> None:
    def script(request: Any) -> Any:
        return says(TEXT, TEXT.decode(request.token_ids().tolist()).upper())(request)

    engine = ScriptedEngine(script)
    answer = await post(engine, {"prompt": prompt, "n": 2, "stream": stream, "rid": "r", "max_tokens": 50})
    texts = dict.fromkeys(range(2 * len(prompts)), "")
    for body in events(answer.content) if stream else [answer.json()]:
        assert body["id"] == "r"
        for choice in body["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == {2 * p + b: one.upper() for p, one in enumerate(prompts) for b in range(2)}
    assert [r.rid for r in engine.requests] == (["r"] if len(prompts) == 1 else ["r_0", "r_1"])


async def test_usage_adds_up_over_prompts_and_branches() -> None:
    engine = ScriptedEngine(says(TEXT, "the fox"))
    usage = (await post(engine, {"prompt": ["hello", "dog"], "n": 2})).json()["usage"]
    assert usage["prompt_tokens"] == len(TEXT.encode("hello")) + len(TEXT.encode("dog"))
    assert usage["completion_tokens"] == 4 * len(TEXT.encode("the fox"))
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4}


async def test_default_is_sixteen_tokens() -> None:
    engine = ScriptedEngine(says(TEXT, "x"))
    await post(engine, {"prompt": "hello"})
    assert engine.requests[0].sampling.max_new_tokens == 16


@pytest.mark.parametrize("stream", [False, True])
async def test_echo_with_logprobs(stream: bool) -> None:
    engine = ScriptedEngine(says(TEXT, " fox"))
    body = {"prompt": "the quick", "echo": True, "logprobs": 1, "max_tokens": 20, "stream": stream}
    answer = await post(engine, body)
    choices = [c["choices"][0] for c in (events(answer.content) if stream else [answer.json()])]
    assert "".join(c["text"] for c in choices) == "the quick fox"
    merged: dict[str, list[Any]] = {k: [] for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}
    for choice in choices:
        for key, values in merged.items():
            values += choice["logprobs"][key]
    ids = TEXT.encode("the quick") + TEXT.encode(" fox")
    assert merged["tokens"] == [TEXT.decode([i]) for i in ids]
    assert merged["token_logprobs"][:2] == [None, -2.0]
    assert merged["top_logprobs"][0] is None
    assert all("the quick fox"[o:].startswith(t) for o, t in zip(merged["text_offset"], merged["tokens"], strict=True))
    assert engine.requests[0].logprob_start == 0


async def test_echo_of_the_prompt_alone() -> None:
    engine = ScriptedEngine(says(TEXT, " fox"))
    body = (await post(engine, {"prompt": "the quick", "echo": True, "max_tokens": 0, "logprobs": 0})).json()
    assert body["choices"][0]["text"] == "the quick"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 0
    assert body["choices"][0]["logprobs"]["tokens"] == [TEXT.decode([i]) for i in TEXT.encode("the quick")]
    assert body["choices"][0]["logprobs"]["top_logprobs"] is None


async def test_one_refused_prompt_aborts_the_others() -> None:
    from server.scripted import HANG
    from sglcore.errors import RequestError

    def script(request: Any) -> list[Any]:
        return [RequestError("too big for the pool")] if request.rid.endswith("_1") else [HANG]

    engine = ScriptedEngine(script)
    answer = await post(engine, {"prompt": ["hello", "dog"], "rid": "r"})
    assert answer.status_code == 400
    assert "r_0" in engine.left
