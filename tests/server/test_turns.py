"""ChatService over the server's own chat and completions: the same prompts, events and refusals."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from server.parsing import ASK, CALL, TEXT, WEATHER, parsers
from server.scripted import HANG, ScriptedEngine, output, says, server_context
from sglcore.contracts.parsers import ArgumentsDelta, CallEnded, CallStarted, ReasoningDelta, TextDelta
from sglcore.contracts.services import TurnEnd
from sglcore.errors import EngineDead, RequestError
from sglcore.request import FinishReason

pytestmark = pytest.mark.asyncio
END = TEXT.eos_token_ids[0]


def context_of(engine: ScriptedEngine, **served: Any) -> Any:
    context = server_context(engine, TEXT, model={"context_length": 2048})
    return replace(context, parsers=parsers(**served)) if served else context


async def told(turn: Any, *, stream: bool = True) -> list[list[Any]]:
    return [events async for events in turn.events(stream=stream)]


async def test_a_turn_of_text() -> None:
    engine = ScriptedEngine(says(TEXT, "the quick fox", end=END))
    turn = await context_of(engine).chat.begin(ASK | {"model": "tiny", "rid": "mine", "stop": ["zzz"]})
    assert engine.requests == []  # nothing is submitted before the events are asked for
    deliveries = await told(turn)
    assert turn.rid == engine.requests[0].rid == "mine"
    events = [event for events in deliveries for event in events]
    assert len(deliveries) > 2 and "".join(e.text for e in events[:-1]) == "the quick fox"
    tokens = len(TEXT.encode("the quick fox")) + 1
    assert events[-1] == TurnEnd(
        reason="stop", matched=END, prompt_tokens=turn.prompt_tokens, completion_tokens=tokens, cached_tokens=2
    )


@pytest.mark.parametrize("stream", [True, False])
async def test_a_turn_with_thoughts_and_a_call(stream: bool) -> None:
    engine = ScriptedEngine(says(TEXT, f"<think>I look it up.</think>Well: {CALL}", end=END))
    context = context_of(engine, tool="hermes", reasoning="qwen3")
    turn = await context.chat.begin(ASK | {"tools": [WEATHER]})
    deliveries = await told(turn, stream=stream)
    assert stream or len(deliveries) == 1
    events = [event for events in deliveries for event in events]
    assert "".join(e.text for e in events if isinstance(e, ReasoningDelta)) == "I look it up."
    assert "".join(e.text for e in events if isinstance(e, TextDelta)).strip() == "Well:"
    assert [e.name for e in events if isinstance(e, CallStarted)] == ["get_weather"]
    assert "".join(e.text for e in events if isinstance(e, ArgumentsDelta)) == '{"city": "Zürich 🎉"}'
    assert isinstance(events[-2], CallEnded)
    end = events[-1]
    assert end.reason == "tool_calls" and end.reasoning_tokens == len(TEXT.encode("I look it up."))


async def test_a_turn_after_a_prompt() -> None:
    engine = ScriptedEngine(says(TEXT, "<think>not parsed", end=END))
    turn = await context_of(engine, reasoning="qwen3").chat.complete({"prompt": "hello", "max_tokens": 100})
    assert engine.requests == [] and turn.prompt_tokens == len(TEXT.encode("hello"))
    ((text, end),) = await told(turn, stream=False)
    assert text == TextDelta("<think>not parsed") and end.reasoning_tokens is None


async def test_what_is_refused() -> None:
    chat = context_of(ScriptedEngine()).chat
    for body, param in (
        (ASK | {"n": 2}, "n"),
        (ASK | {"max_tokens": 0}, "max_tokens"),
        (ASK | {"model": "other"}, "model"),
        (ASK | {"top_k": -7}, "top_k"),
        (ASK | {"tools": [WEATHER]}, "tools"),
        ({}, None),
    ):
        with pytest.raises(RequestError) as refused:
            await chat.begin(body)
        assert refused.value.param == param or param is None
    with pytest.raises(RequestError) as refused:
        await chat.complete({"prompt": ["a", "b"]})
    assert refused.value.param == "prompt"


async def test_prompt_tokens_are_counted_without_an_engine() -> None:
    engine = ScriptedEngine()
    chat = context_of(engine, tool="hermes").chat
    few = await chat.count(ASK | {"max_tokens": 0, "stream": True})
    assert few == (await chat.begin(ASK)).prompt_tokens
    assert await chat.count(ASK | {"tools": [WEATHER]}) > few + 20
    assert engine.requests == []


async def test_leaving_early_aborts() -> None:
    engine = ScriptedEngine(lambda r: [[output(r, TEXT.encode("the"))], HANG])
    turn = await context_of(engine).chat.begin(ASK)
    async with aclosing(turn.events()) as events:
        assert await anext(events) == [TextDelta("the")]
    assert engine.left == [turn.rid]


async def test_how_turns_end_badly() -> None:
    aborted = ScriptedEngine(lambda r: [[output(r, [], finish=FinishReason("abort", message="Too late."))]])
    ((end,),) = await told(await context_of(aborted).chat.begin(ASK))
    assert (end.reason, end.message) == ("abort", "Too late.")
    for error in (RequestError("full", status=429), EngineDead("gone")):
        turn = await context_of(ScriptedEngine(lambda r, e=error: [e])).chat.begin(ASK)
        with pytest.raises(type(error)):
            await told(turn)


async def test_two_turns_of_one_id_are_refused_as_elsewhere() -> None:
    engine = ScriptedEngine(lambda r: [[output(r, TEXT.encode("the"))], HANG])
    context = context_of(engine)
    first, second = [await context.chat.begin(ASK | {"rid": "same"}) for _ in range(2)]
    async with aclosing(first.events()) as events:
        await anext(events)
        with pytest.raises(RequestError) as refused:
            await told(second)
    assert refused.value.code == "duplicate_rid"
