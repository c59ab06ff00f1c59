"""Events -> blocks, whole and streamed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from sglcore_plugin_anthropic.answer import SIGNATURE, Answer
from sglcore_plugin_anthropic.ask import Ask

from sglcore.contracts.parsers import ArgumentsDelta, CallEnded, CallStarted, ReasoningDelta, TextDelta
from sglcore.contracts.services import TurnEnd
from sglcore.errors import RequestError
from sglcore.testing.stand_ins import StandInTurn

CALL = [CallStarted(0, "call_1", "now"), ArgumentsDelta(0, '{"a":'), ArgumentsDelta(0, "1}"), CallEnded(0)]
END = TurnEnd(reason="stop", prompt_tokens=9, completion_tokens=3, cached_tokens=4)
THINK = [ReasoningDelta("Hm"), ReasoningDelta("m.")]


def answer(deliveries: list[Any], thoughts: str = "shown") -> tuple[Answer, StandInTurn]:
    turn = StandInTurn(deliveries, "r", 9)
    return Answer(turn, Ask({"rid": "msg_1"}, [], thoughts=thoughts), "m"), turn


def whole(*deliveries: Any, thoughts: str = "shown") -> dict[str, Any]:
    return asyncio.run(answer(list(deliveries), thoughts)[0].whole())


def streamed(*deliveries: Any, thoughts: str = "shown") -> list[dict[str, Any]]:
    async def gather() -> bytes:
        return b"".join([chunk async for chunk in answer(list(deliveries), thoughts)[0].chunks()])

    frames = asyncio.run(gather()).decode().split("\n\n")
    assert frames.pop() == ""
    events = []
    for frame in frames:
        name, data = frame.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def put_together(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What a client makes of a stream. AssertionError where events are out of order."""
    message = events[0]["message"]
    texts: dict[int, str] = {}
    open_block: int | None = None
    assert [e["type"] for e in events[:2]] == ["message_start", "ping"]
    for e in events[2:-2]:
        kind = e["type"].removeprefix("content_block_")
        if kind == "start":
            assert open_block is None and e["index"] == len(message["content"])
            open_block = e["index"]
            message["content"].append(e["content_block"])
            texts[e["index"]] = ""
            continue
        assert e["index"] == open_block
        block = message["content"][e["index"]]
        if kind == "stop":
            open_block = None
            if block["type"] == "tool_use":
                block["input"] = json.loads(texts[e["index"]] or "{}")
        else:
            delta = dict(e["delta"])
            name = delta.pop("type").removesuffix("_delta")
            (text,) = delta.values()
            texts[e["index"]] += text
            if name != "input_json":
                block[name] += text
    assert open_block is None
    assert events[-1] == {"type": "message_stop"}
    return message | events[-2]["delta"] | {"usage": events[-2]["usage"]}


@pytest.mark.parametrize("thoughts", ["shown", "omitted", "hidden"])
@pytest.mark.parametrize(
    "deliveries",
    [
        [[TextDelta("Hello"), TextDelta(".")], [END]],
        [[*THINK], [TextDelta("So"), *CALL], [TextDelta("and"), TurnEnd(reason="tool_calls")]],
        [[TextDelta("a")], [*CALL, CallStarted(1, "call_2", "then"), ArgumentsDelta(1, "{}"), CallEnded(1), END]],
        [[END]],
    ],
)
def test_a_stream_makes_the_same_message(deliveries: list[Any], thoughts: str) -> None:
    message = put_together(streamed(*deliveries, thoughts=thoughts))
    assert message == whole(*deliveries, thoughts=thoughts)


def test_blocks() -> None:
    message = whole([*THINK, TextDelta("So"), TextDelta("!"), *CALL, END])
    assert message["content"] == [
        {"type": "thinking", "thinking": "Hmm.", "signature": SIGNATURE},
        {"type": "text", "text": "So!"},
        {"type": "tool_use", "id": "toolu_1", "name": "now", "input": {"a": 1}},
    ]
    assert (message["id"], message["role"], message["model"]) == ("msg_1", "assistant", "m")
    assert message["usage"] == {
        "input_tokens": 5,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 3,
    }


def test_thoughts_that_are_omitted_leave_their_block() -> None:
    assert whole([*THINK, END], thoughts="omitted")["content"] == [
        {"type": "thinking", "thinking": "", "signature": SIGNATURE}
    ]
    assert whole([*THINK, TextDelta("a"), END], thoughts="hidden")["content"] == [{"type": "text", "text": "a"}]


@pytest.mark.parametrize(
    "end, reason, sequence",
    [
        (TurnEnd(reason="stop", matched=7), "end_turn", None),
        (TurnEnd(reason="stop", matched="END"), "stop_sequence", "END"),
        (TurnEnd(reason="length"), "max_tokens", None),
        (TurnEnd(reason="tool_calls", matched="END"), "tool_use", None),
    ],
)
def test_stop_reasons(end: TurnEnd, reason: str, sequence: str | None) -> None:
    message = whole([end])
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)


def test_a_call_that_was_cut_off() -> None:
    cut = [*CALL[:2], TurnEnd(reason="length")]
    assert whole(cut)["content"][0]["input"] == {}
    assert [e["type"] for e in streamed(cut)][-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_warnings_of_parsers_are_told() -> None:
    end = TurnEnd(reason="stop", warnings=[{"code": "parser_failed"}])
    assert whole([end])["warnings"] == [{"code": "parser_failed"}]
    assert streamed([end])[-2]["warnings"] == [{"code": "parser_failed"}]


@pytest.mark.parametrize("message", ["", "Told to stop."])
def test_an_aborted_turn_is_a_failure(message: str) -> None:
    end = TurnEnd(reason="abort", message=message)
    for call in (whole, streamed):
        with pytest.raises(RequestError, match=message or "aborted") as failed:
            call([TextDelta("a")], [end])
        assert failed.value.status == 503


def test_leaving_the_stream_leaves_the_turn() -> None:
    written, turn = answer([[TextDelta("a")], [TextDelta("b")], [END]])

    async def leave() -> None:
        chunks = written.chunks()
        await anext(chunks)
        await chunks.aclose()

    asyncio.run(leave())
    assert turn.left
