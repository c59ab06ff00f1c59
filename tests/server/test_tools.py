"""Tools and reasoning in /v1/chat/completions over a scripted engine."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer

from server.client import events, http_client
from server.parsing import ASK, CALL, NOW, PATH, SECOND, TEXT, WEATHER, parsers, put_together
from server.scripted import CHATML, TOKENIZER, ScriptedEngine, output, says, server_context, tiny_text
from sglcore.contracts.weights import TextAssets
from sglcore.request import FinishReason
from sglcore.server.parsers import AnswerParsers
from sglcore.text.service import Text

pytestmark = pytest.mark.asyncio
END = TEXT.eos_token_ids[0]


async def post(
    answer: str | ScriptedEngine, body: dict[str, Any], loaded: AnswerParsers | None = None, text: Text = TEXT
) -> Any:
    """The HTTP answer where the model writes `answer`."""
    engine = answer if isinstance(answer, ScriptedEngine) else ScriptedEngine(says(text, answer, end=END))
    context = server_context(engine, text, model={"context_length": 4096})
    context.parsers = parsers() if loaded is None else loaded
    async with http_client(context) as client:
        return await client.post(PATH, json=ASK | body)


async def test_a_call() -> None:
    answer = await post(f"Let me look.\n{CALL}", {"tools": [WEATHER]})
    (choice,) = answer.json()["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["matched_stop"] == END
    assert choice["message"]["content"] == "Let me look."
    assert call["id"].startswith("call_")
    assert (call["index"], call["type"], call["function"]["name"]) == (0, "function", "get_weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "Zürich 🎉"}
    assert "warnings" not in answer.json()


async def test_calls_alone_have_no_content() -> None:
    answer = await post(f"{CALL}\n{SECOND}", {"tools": [WEATHER, NOW]})
    message = answer.json()["choices"][0]["message"]
    assert message["content"] is None
    assert [(c["index"], c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]] == [
        (0, "get_weather", '{"city": "Zürich 🎉"}'),
        (1, "now", "{}"),
    ]


@pytest.mark.parametrize("interval", [1, 3, 1000])
async def test_the_stream_says_what_the_whole_answer_says(interval: int) -> None:
    wrote = f"<think>\nWhich city?\n</think>\n\nLet me look.\n{CALL}\n{SECOND}"
    loaded = parsers("hermes", "qwen3")
    whole = (await post(wrote, {"tools": [WEATHER, NOW]}, loaded)).json()["choices"][0]["message"]
    engine = ScriptedEngine(says(TEXT, wrote, end=END))
    context = server_context(engine, TEXT, model={"context_length": 4096}, stream_interval=interval)
    context.parsers = loaded
    async with http_client(context) as client:
        chunks = events((await client.post(PATH, json=ASK | {"tools": [WEATHER, NOW], "stream": True})).content)
    told = put_together(chunks)
    assert told["content"] == whole["content"] == "Let me look."
    assert told["reasoning"] == whole["reasoning_content"] == "Which city?"
    assert [c[1:] for c in told["calls"]] == [
        [c["function"]["name"], c["function"]["arguments"]] for c in whole["tool_calls"]
    ]
    assert told["finish"] == "tool_calls"
    assert len({c[0] for c in told["calls"]}) == 2


async def test_arguments_come_in_pieces() -> None:
    chunks = events((await post(CALL, {"tools": [WEATHER], "stream": True})).content)
    deltas = [c["choices"][0]["delta"]["tool_calls"][0] for c in chunks if "tool_calls" in c["choices"][0]["delta"]]
    assert set(deltas[0]) == {"index", "id", "type", "function"}
    assert deltas[0]["function"] == {"name": "get_weather", "arguments": ""}
    assert all(set(delta) == {"index", "function"} for delta in deltas[1:])
    assert len(deltas) > 5


async def test_branches_are_parsed_apart() -> None:
    answer = await post(CALL, {"tools": [WEATHER], "n": 3})
    choices = answer.json()["choices"]
    assert [c["finish_reason"] for c in choices] == ["tool_calls"] * 3
    assert len({c["message"]["tool_calls"][0]["id"] for c in choices}) == 3


async def test_one_call_where_the_client_wants_no_more() -> None:
    answer = await post(f"{CALL}\n{SECOND}", {"tools": [WEATHER, NOW], "parallel_tool_calls": False})
    choice = answer.json()["choices"][0]
    assert [c["function"]["name"] for c in choice["message"]["tool_calls"]] == ["get_weather"]
    assert choice["finish_reason"] == "tool_calls"


async def test_a_call_that_was_cut_off_is_not_ready_to_run() -> None:
    body = {"tools": [WEATHER], "max_tokens": len(TEXT.encode(CALL[:-20]))}
    for stream in (False, True):
        answer = await post(CALL, body | {"stream": stream})
        told = put_together(events(answer.content)) if stream else None
        choice = None if stream else answer.json()["choices"][0]
        assert (told["finish"] if told else choice["finish_reason"]) == "length"
        arguments = told["calls"][0][2] if told else choice["message"]["tool_calls"][0]["function"]["arguments"]
        assert arguments.startswith('{"city": "Z')


async def test_arguments_that_break_are_not_ready_to_run() -> None:
    answer = await post('<tool_call>{"name": "now", "arguments": {"a": True}}</tool_call>', {"tools": [NOW]})
    choice = answer.json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] == "True}}</tool_call>"


async def test_logprobs_come_with_calls() -> None:
    body = {"tools": [WEATHER], "logprobs": True}
    whole = (await post(CALL, body)).json()["choices"][0]["logprobs"]["content"]
    chunks = events((await post(CALL, body | {"stream": True})).content)
    streamed = [e for c in chunks if c["choices"][0]["logprobs"] for e in c["choices"][0]["logprobs"]["content"]]
    assert streamed == whole
    assert len(whole) == len(TEXT.encode(CALL)) + 1


async def test_the_template_shows_tools_calls_and_answers() -> None:
    engine = ScriptedEngine(says(TEXT, "12 degrees.", end=END))
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Bern"}'}}
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "12 degrees"},
    ]
    answer = await post(engine, {"messages": messages, "tools": [WEATHER]})
    prompt = TEXT.decode(engine.requests[0].token_ids().tolist(), skip_special_tokens=False)
    assert '"description": "Weather of a city"' in prompt
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bern"}}\n</tool_call>' in prompt
    assert "<tool_response>\n12 degrees\n</tool_response>" in prompt
    assert answer.json()["choices"][0]["message"]["content"] == "12 degrees."
    assert answer.json()["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("loaded", [parsers(), AnswerParsers()], ids=["parser", "none"])
async def test_no_tools_are_shown_and_none_parsed_where_none_shall_be_called(loaded: AnswerParsers) -> None:
    engine = ScriptedEngine(says(TEXT, CALL, end=END))
    answer = await post(engine, {"tools": [WEATHER], "tool_choice": "none"}, loaded)
    assert answer.json()["choices"][0]["message"]["content"] == CALL
    prompt = TEXT.decode(engine.requests[0].token_ids().tolist(), skip_special_tokens=False)
    assert "get_weather" not in prompt


async def test_an_answer_is_not_searched_for_calls_where_no_tools_were_given() -> None:
    assert (await post(CALL, {})).json()["choices"][0]["message"]["content"] == CALL


@pytest.mark.parametrize(
    "body, param, words",
    [
        ({"tools": [WEATHER], "tool_choice": "required"}, "tool_choice", "grammars"),
        ({"tools": [NOW], "tool_choice": {"type": "function", "function": {"name": "now"}}}, "tool_choice", "grammars"),
        ({"tools": [NOW], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "'x'"),
        ({"tools": [NOW], "tool_choice": "perhaps"}, "tool_choice", "auto, none"),
        ({"tools": [NOW], "tool_choice": {"type": "function"}}, "tool_choice", "auto, none"),
        ({"tool_choice": "required"}, "tool_choice", "no `tools`"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]", "function"),
        ({"tools": [NOW, {"type": "function", "function": {}}]}, "tools[1].function.name", "1 to 256"),
        ({"tools": [{"function": {"name": "f", "parameters": []}}]}, "tools[0].function.parameters", "object"),
        ({"tools": [{"function": {"name": "f", "description": 1}}]}, "tools[0].function.description", "text"),
        ({"tools": "all"}, "tools", "tools"),
        ({"tools": [NOW], "parallel_tool_calls": "yes"}, "parallel_tool_calls", "parallel_tool_calls"),
        ({"separate_reasoning": 1}, "separate_reasoning", "separate_reasoning"),
    ],
)
async def test_what_cannot_be_done_is_refused(body: dict[str, Any], param: str, words: str) -> None:
    engine = ScriptedEngine()
    answer = await post(engine, body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert words in answer.json()["error"]["message"]
    assert engine.requests == []


async def test_tools_without_a_parser_name_the_flag() -> None:
    error = (await post("x", {"tools": [WEATHER]}, AnswerParsers())).json()["error"]
    assert error["code"] == "tool_parser_needed"
    assert "--tool-call-parser" in error["message"]


async def test_a_template_that_shows_no_tools_is_told() -> None:
    text = tiny_text(CHATML)
    error = (await post("x", {"tools": [WEATHER]}, text=text)).json()["error"]
    assert error["code"] == "tools_not_in_template"
    assert "--chat-template" in error["message"]


async def test_markers_that_are_special_tokens_stay_in_the_text() -> None:
    tokenizer = Tokenizer.from_buffer(TOKENIZER)
    tokenizer.add_special_tokens(["<tool_call>", "</tool_call>"])
    special = {"eos_token": "<|im_end|>"}
    text = Text(TextAssets(tokenizer.to_str().encode(), chat_template=TEXT.chat_template, special_tokens=special))
    assert len(text.encode("<tool_call>")) == 1
    engine = ScriptedEngine(says(text, CALL, end=END))
    answer = await post(engine, {"tools": [WEATHER]}, parsers(text=text), text)
    assert answer.json()["choices"][0]["finish_reason"] == "tool_calls"
    assert engine.requests[0].sampling.skip_special_tokens is False
    await post(engine, {}, parsers(text=text), text)
    assert engine.requests[1].sampling.skip_special_tokens is True


# -- reasoning --

THOUGHT = "<think>\nHm, which?\n</think>\n\nThis one."


async def test_reasoning_is_told_apart() -> None:
    message = (await post(THOUGHT, {}, parsers(None, "qwen3"))).json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm, which?", "This one.")
    assert message["tool_calls"] is None


@pytest.mark.parametrize("stream", [False, True])
async def test_reasoning_stays_in_the_text_where_the_client_wants_it_there(stream: bool) -> None:
    answer = await post(THOUGHT, {"separate_reasoning": False, "stream": stream}, parsers(None, "qwen3"))
    if stream:
        assert put_together(events(answer.content))["content"] == THOUGHT
    else:
        assert answer.json()["choices"][0]["message"]["content"] == THOUGHT


@pytest.mark.parametrize("streamed", [False, True])
async def test_reasoning_is_streamed_or_told_at_once(streamed: bool) -> None:
    body = {"stream": True, "stream_reasoning": streamed}
    chunks = events((await post(THOUGHT, body, parsers(None, "qwen3"))).content)
    thoughts = [d for c in chunks if (d := c["choices"][0]["delta"].get("reasoning_content"))]
    assert "".join(thoughts) == "Hm, which?"
    assert (len(thoughts) == 1) is not streamed
    assert put_together(chunks)["content"] == "This one."


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_thought_without_an_end_is_told(streamed: bool) -> None:
    body = {"stream": True, "stream_reasoning": streamed}
    chunks = events((await post("Hm, which?", body, parsers(None, "deepseek-r1"))).content)
    assert put_together(chunks)["reasoning"] == "Hm, which?"
    whole = (await post("Hm, which?", {}, parsers(None, "deepseek-r1"))).json()["choices"][0]
    assert (whole["message"]["reasoning_content"], whole["message"]["content"]) == ("Hm, which?", None)


async def test_a_call_amid_a_thought_is_a_call() -> None:
    message = (await post(f"<think>I call.\n{CALL}", {"tools": [WEATHER]}, parsers("hermes", "qwen3"))).json()
    choice = message["choices"][0]
    assert choice["message"]["reasoning_content"] == "I call."
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "get_weather"


async def test_the_prompt_tells_that_the_thought_was_opened() -> None:
    template = "{{ messages[0].content }}{% if enable_thinking %}<think>\n{% endif %}"
    text = tiny_text(template)
    for thinking, reasoning in ((True, "Hm."), (False, None)):
        body = {"chat_template_kwargs": {"enable_thinking": thinking}}
        answer = await post("Hm.", body, parsers(None, "qwen3", text), text)
        assert answer.json()["choices"][0]["message"]["reasoning_content"] == reasoning


async def test_stop_strings_come_before_parsing() -> None:
    ids = TEXT.encode(CALL)
    engine = ScriptedEngine(lambda r: [[output(r, [*ids, END], finish=FinishReason("stop", END))]])
    choice = (await post(engine, {"tools": [WEATHER], "stop": "rich"})).json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "Zü'
