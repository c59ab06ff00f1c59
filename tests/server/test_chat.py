"""POST /v1/chat/completions over a scripted engine."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from server.client import events, http_client
from server.scripted import HANG, ScriptedEngine, output, says, server_context, tiny_text
from sglcore.errors import EngineDead, RequestError
from sglcore.request import FinishReason
from sglcore.server.prompts import LONG_TEXT

pytestmark = pytest.mark.asyncio
TEXT = tiny_text()
END = TEXT.eos_token_ids[0]
HELLO: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
PATH = "/v1/chat/completions"


async def post(engine: ScriptedEngine, body: dict[str, Any], **context: Any) -> Any:
    async with http_client(server_context(engine, TEXT, **context)) as client:
        return await client.post(PATH, json=HELLO | body)


async def test_whole_answer() -> None:
    engine = ScriptedEngine(says(TEXT, "the quick fox", end=END))
    body = (await post(engine, {"rid": "r1"})).json()
    prompt = engine.requests[0].token_ids().tolist()
    assert (
        TEXT.decode(prompt, skip_special_tokens=False) == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )
    tokens = len(TEXT.encode("the quick fox")) + 1
    assert body["id"] == "r1"
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "the quick fox",
                "tool_calls": None,
                "reasoning_content": None,
            },
            "logprobs": None,
            "finish_reason": "stop",
            "matched_stop": END,
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": len(prompt),
        "completion_tokens": tokens,
        "total_tokens": len(prompt) + tokens,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


async def test_stream_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sglcore.server.chat_answer.unix_now", lambda: 1_700_000_000)
    ids = TEXT.encode("hé")
    assert len(ids) > 2 or TEXT.decode(ids[:1]) == "h"
    engine = ScriptedEngine(
        lambda r: [[output(r, [ids[0]])], [output(r, [*ids[1:], END], finish=FinishReason("stop", END))]]
    )
    answer = await post(engine, {"rid": "r1", "stream": True, "stream_options": {"include_usage": True}})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    head = '{"id":"r1","object":"chat.completion.chunk","created":1700000000,"model":"tiny","choices":['
    end = '],"usage":null}\n\n'

    def chunk(delta: str, finish: str = "null", matched: str = "null") -> str:
        fields = f'"logprobs":null,"finish_reason":{finish},"matched_stop":{matched}'
        return f'data: {head}{{"index":0,"delta":{delta},{fields}}}{end}'

    prompt = len(engine.requests[0].token_ids())
    usage = (
        f'"usage":{{"prompt_tokens":{prompt},"completion_tokens":{len(ids) + 1},'
        f'"total_tokens":{prompt + len(ids) + 1},"prompt_tokens_details":{{"cached_tokens":2}}}}'
    )
    assert answer.content.decode() == (
        chunk('{"role":"assistant","content":""}')
        + chunk('{"content":"h"}')
        + chunk('{"content":"é"}')
        + chunk("{}", '"stop"', str(END))
        + f"data: {head}],{usage}}}\n\n"
        + "data: [DONE]\n\n"
    )


async def test_stream_equals_whole_for_every_branch() -> None:
    engine = ScriptedEngine(says(TEXT, "été à Zürich 🎉 日本語", end=END))
    whole = (await post(engine, {"n": 3})).json()
    chunks = events((await post(engine, {"n": 3, "stream": True})).content)
    assert engine.requests[0].n == 3
    for index, choice in enumerate(whole["choices"]):
        deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"][0]["index"] == index]
        assert "".join(d.get("content", "") for d in deltas) == choice["message"]["content"] == "été à Zürich 🎉 日本語"
        assert deltas[0] == {"role": "assistant", "content": ""}
        assert deltas[-1] == {}


async def test_usage_on_every_chunk() -> None:
    engine = ScriptedEngine(says(TEXT, "the quick fox"))
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = events((await post(engine, {"stream": True, "stream_options": options})).content)
    counts = [c["usage"]["completion_tokens"] for c in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == len(TEXT.encode("the quick fox"))


async def test_stop_string_across_tokens_leaves_the_engine() -> None:
    engine = ScriptedEngine(lambda r: [*says(TEXT, "hello world, how are you")(r)[:-1], HANG])
    body = (await post(engine, {"stop": ["ld, h", "zzz"]})).json()
    assert body["choices"][0]["message"]["content"] == "hello wor"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["choices"][0]["matched_stop"] == "ld, h"
    assert engine.left == [engine.requests[0].rid]


@pytest.mark.parametrize("no_trim, content", [(False, "hello"), (True, "hello fox")])
async def test_an_ordinary_stop_token_has_no_place_in_the_text(no_trim: bool, content: str) -> None:
    (stop,) = TEXT.encode(" fox")
    engine = ScriptedEngine(says(TEXT, "hello", end=stop))
    choice = (await post(engine, {"stop_token_ids": [stop], "no_stop_trim": no_trim})).json()["choices"][0]
    assert (choice["message"]["content"], choice["matched_stop"]) == (content, stop)


async def test_long_text_is_tokenized_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    text = tiny_text()
    plain = text.encode

    def encode(content: str, *, add_special_tokens: bool = True) -> list[int]:
        threads.append(threading.get_ident())
        return plain(content, add_special_tokens=add_special_tokens)

    monkeypatch.setattr(text, "encode", encode)
    engine = ScriptedEngine(lambda r: [[output(r, [1], finish=FinishReason("length"))]])
    async with http_client(server_context(engine, text, model={"context_length": 10**6})) as client:
        for size in (10, LONG_TEXT + 1):
            body = {"messages": [{"role": "user", "content": "a" * size}]}
            assert (await client.post(PATH, json=body)).status_code == 200
    assert threads[0] == threading.get_ident() != threads[1]


class ClosableSteps:
    """An engine's iterator that is no generator: only `aclose` ends it."""

    def __init__(self, steps: list[Any]) -> None:
        self._steps = iter(steps)
        self.closed = 0

    def __aiter__(self) -> ClosableSteps:
        return self

    async def __anext__(self) -> Any:
        return next(self._steps)

    async def aclose(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("stream", [False, True])
async def test_the_engines_iterator_is_closed_and_not_just_dropped(stream: bool) -> None:
    made: list[ClosableSteps] = []

    class Engine(ScriptedEngine):
        def generate(self, request: Any) -> Any:
            made.append(ClosableSteps(says(TEXT, "the quick fox")(request)))
            return made[-1]

    assert (await post(Engine(), {"stop": "quick", "stream": stream})).status_code == 200
    assert [steps.closed for steps in made] == [1]


async def test_stop_string_is_kept_without_trim_and_while_streaming() -> None:
    engine = ScriptedEngine(says(TEXT, "hello world, how are you"))
    body = {"stop": "ld, h", "no_stop_trim": True, "stream": True}
    chunks = events((await post(engine, body)).content)
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == "hello world, h"
    assert chunks[-1]["choices"][0]["matched_stop"] == "ld, h"


async def test_a_stopped_branch_does_not_end_its_sisters() -> None:
    one, two = TEXT.encode("fox."), TEXT.encode("dog the lazy")
    length = max(len(one), len(two))

    def script(request: Any) -> list[Any]:
        def step(i: int) -> list[Any]:
            last = FinishReason("length") if i == length - 1 else None
            return [output(request, ids[i : i + 1], b, finish=last) for b, ids in enumerate((one, two))]

        return [step(i) for i in range(length)]

    choices = (await post(ScriptedEngine(script), {"n": 2, "stop": "x"})).json()["choices"]
    assert [c["message"]["content"] for c in choices] == ["fo", "dog the lazy"]
    assert [c["finish_reason"] for c in choices] == ["stop", "length"]


async def test_logprobs() -> None:
    engine = ScriptedEngine(says(TEXT, "é!"))
    whole = (await post(engine, {"logprobs": True, "top_logprobs": 2})).json()["choices"][0]["logprobs"]["content"]
    ids = TEXT.encode("é!")
    assert [entry["logprob"] for entry in whole] == [-0.25 * (i + 1) for i in range(len(ids))]
    assert b"".join(bytes(entry["bytes"]) for entry in whole).decode() == "é!"
    assert whole[-1]["token"] == "!"
    assert [top["logprob"] for top in whole[0]["top_logprobs"]] == [-0.5, -1.5]
    chunks = events((await post(engine, {"logprobs": True, "top_logprobs": 2, "stream": True})).content)
    streamed = [e for c in chunks if c["choices"][0]["logprobs"] for e in c["choices"][0]["logprobs"]["content"]]
    assert streamed == whole


async def test_sampling_reaches_the_engine() -> None:
    engine = ScriptedEngine(says(TEXT, "x"))
    asked = {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 7,
        "min_p": 0.1,
        "seed": -1,
        "stop": ["a", "b"],
        "stop_token_ids": [5],
        "ignore_eos": True,
        "skip_special_tokens": False,
        "max_completion_tokens": 9,
        "max_tokens": 3,
        "cache_salt": "s",
    }
    await post(engine, asked)
    sampling = engine.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0, 0.5, 7, 0.1)
    assert (sampling.seed, sampling.stop, sampling.stop_token_ids) == (2**63 - 1, ("a", "b"), (5,))
    assert (sampling.ignore_eos, sampling.skip_special_tokens, sampling.max_new_tokens) == (True, False, 9)
    assert engine.requests[0].namespace


async def test_defaults_come_from_the_model_then_the_api() -> None:
    engine = ScriptedEngine(says(TEXT, "x"))
    await post(engine, {"top_p": 0.3}, model={"sampling_defaults": {"temperature": 0.6, "top_p": 0.9, "top_k": 0}})
    sampling, prompt = engine.requests[0].sampling, len(engine.requests[0].token_ids())
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.6, 0.3, -1)
    assert sampling.max_new_tokens == 256 - prompt


async def test_continue_final_message() -> None:
    engine = ScriptedEngine(says(TEXT, "fox"))
    messages = [*HELLO["messages"], {"role": "assistant", "content": "the quick "}]
    await post(engine, {"messages": messages, "continue_final_message": True})
    prompt = TEXT.decode(engine.requests[0].token_ids().tolist(), skip_special_tokens=False)
    assert prompt.endswith("<|im_start|>assistant\nthe quick ")


async def test_chat_template_kwargs_reach_a_template_that_reads_them() -> None:
    text = tiny_text("{{ messages[0].content }}{{ enable_thinking }}")
    engine = ScriptedEngine(says(text, "x"))
    async with http_client(server_context(engine, text)) as client:
        body = HELLO | {"chat_template_kwargs": {"enable_thinking": "yes", "other": 1}}
        assert (await client.post(PATH, json=body)).status_code == 200
        refused = await client.post(PATH, json=HELLO | {"chat_template_kwargs": {"messages": []}})
        info = (await client.get("/server_info")).json()
    assert text.decode(engine.requests[0].token_ids().tolist()) == "helloyes"
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "chat_template_kwargs.messages"
    assert info["ignored_request_fields"] == {"chat_template_kwargs.other": 1}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "error, status",
    [
        (RequestError("full", status=429, code="queue_full"), 429),
        (EngineDead("it crashed"), 503),
        (RuntimeError("secret detail"), 500),
    ],
)
async def test_engine_errors_before_the_first_token(stream: bool, error: Exception, status: int) -> None:
    answer = await post(ScriptedEngine(lambda r: [error]), {"stream": stream})
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


async def test_engine_death_amid_a_stream_ends_it_with_an_error() -> None:
    ids = TEXT.encode("hello")
    engine = ScriptedEngine(lambda r: [[output(r, ids)], EngineDead("it crashed")])
    chunks = events((await post(engine, {"stream": True})).content)
    assert chunks[-1]["error"]["code"] == "engine_unavailable"
    assert any(c.get("choices") and c["choices"][0]["delta"].get("content") == "hello" for c in chunks)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failed_branch_is_an_error(stream: bool) -> None:
    reason = FinishReason("error", None, "Its logits were not finite.", 500, "not_finite")
    answer = await post(ScriptedEngine(lambda r: [[output(r, [], finish=reason)]]), {"stream": stream})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "not_finite"


async def test_an_engine_that_just_ends_is_dead() -> None:
    assert (await post(ScriptedEngine(lambda r: []), {})).status_code == 503


async def test_an_aborted_request_says_so() -> None:
    ids = TEXT.encode("hello")
    engine = ScriptedEngine(lambda r: [[output(r, ids, finish=FinishReason("abort", None, "by request"))]])
    body = (await post(engine, {})).json()
    assert body["choices"][0]["finish_reason"] == "abort"
    assert body["choices"][0]["message"]["content"] == "hello"


async def test_stream_interval_gathers_tokens() -> None:
    ids = TEXT.encode("the quick brown fox jumps over the lazy dog")
    engine = ScriptedEngine(says(TEXT, TEXT.decode(ids)))
    chunks = events((await post(engine, {"stream": True}, stream_interval=4)).content)
    contents = [c["choices"][0]["delta"]["content"] for c in chunks if c["choices"][0]["delta"].get("content")]
    assert "".join(contents) == TEXT.decode(ids)
    assert len(contents) <= 2 + len(ids) // 4
