"""Events -> Ollama's objects, whole and a line each."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from sglcore_plugin_ollama.answer import Answer
from sglcore_plugin_ollama.library import family_of, tagged

from sglcore.contracts.parsers import ArgumentsDelta, CallEnded, CallStarted, ReasoningDelta, TextDelta
from sglcore.contracts.routes import ModelInfo
from sglcore.contracts.services import TurnEnd
from sglcore.errors import RequestError
from sglcore.testing.stand_ins import StandInTurn

CALL = [CallStarted(0, "call_1", "now"), ArgumentsDelta(0, '{"a":'), ArgumentsDelta(0, "1}"), CallEnded(0)]
END = TurnEnd(reason="stop", prompt_tokens=9, completion_tokens=3, cached_tokens=4)
DELIVERIES: list[Any] = [[ReasoningDelta("Hm")], [ReasoningDelta("m."), TextDelta("So")], CALL[:3], [*CALL[3:]], [END]]


def whole(deliveries: list[Any], *, chat: bool = True, thoughts: bool = True) -> dict[str, Any]:
    answer = Answer("m", chat=chat, thoughts=thoughts)
    return asyncio.run(answer.whole(StandInTurn(deliveries, "r", 9)))


def lines(deliveries: list[Any], *, chat: bool = True, thoughts: bool = True) -> list[dict[str, Any]]:
    async def gather() -> bytes:
        answer = Answer("m", chat=chat, thoughts=thoughts)
        return b"".join([chunk async for chunk in answer.lines(StandInTurn(deliveries, "r", 9))])

    text = asyncio.run(gather()).decode()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("thoughts", [True, False])
def test_a_chat(thoughts: bool) -> None:
    answer = whole(DELIVERIES, thoughts=thoughts)
    called = {"id": "call_1", "function": {"index": 0, "name": "now", "arguments": {"a": 1}}}
    thinking = {"thinking": "Hmm."} if thoughts else {}
    assert answer["message"] == {"role": "assistant", "content": "So", **thinking, "tool_calls": [called]}
    assert (answer["done"], answer["done_reason"], answer["model"]) == (True, "stop", "m")
    assert (answer["prompt_eval_count"], answer["eval_count"], answer["load_duration"]) == (9, 3, 0)
    assert answer["total_duration"] >= answer["eval_duration"] > 0
    parts = lines(DELIVERIES, thoughts=thoughts)
    assert "".join(part["message"].get("thinking", "") for part in parts) == thinking.get("thinking", "")
    assert "".join(part["message"]["content"] for part in parts) == "So"
    assert [call for part in parts for call in part["message"].get("tool_calls", ())] == [called]
    assert [part["done"] for part in parts] == [False] * (len(parts) - 1) + [True]
    assert all(part["created_at"].endswith("Z") for part in parts)


def test_a_response() -> None:
    answer = whole(DELIVERIES, chat=False)
    assert (answer["response"], answer["thinking"]) == ("So", "Hmm.")
    parts = lines(DELIVERIES, chat=False)
    assert "".join(part["response"] for part in parts) == "So"
    assert parts[-1]["response"] == "" and parts[-1]["eval_count"] == 3


def test_a_call_that_was_cut_off_is_not_told() -> None:
    cut = [[TextDelta("a"), *CALL[:2]], [TurnEnd(reason="length")]]
    assert whole(cut)["message"] == {"role": "assistant", "content": "a"}
    assert whole(cut)["done_reason"] == "length"


def test_calls_are_no_reason_of_their_own() -> None:
    assert whole([[TurnEnd(reason="tool_calls")]])["done_reason"] == "stop"


def test_an_aborted_turn_is_a_failure() -> None:
    aborted = [[TextDelta("a")], [TurnEnd(reason="abort", message="Told to stop.")]]
    for call in (whole, lines):
        with pytest.raises(RequestError, match="Told to stop") as failed:
            call(aborted)
        assert failed.value.status == 503


def test_warnings_of_parsers_are_told() -> None:
    end = TurnEnd(reason="stop", warnings=[{"code": "parser_failed"}])
    assert whole([[end]])["warnings"] == lines([[end]])[-1]["warnings"] == [{"code": "parser_failed"}]


def model(name: str, *architectures: str) -> ModelInfo:
    return ModelInfo(name, "p", architectures, 512, 9, 0, {})


@pytest.mark.parametrize(
    "name, tag", [("m", "m:latest"), ("m:7b", "m:7b"), ("org/m", "org/m:latest"), ("host:1/m", "host:1/m:latest")]
)
def test_names_have_a_tag(name: str, tag: str) -> None:
    assert tagged(model(name)) == tag


@pytest.mark.parametrize(
    "architecture, family",
    [("LlamaForCausalLM", "llama"), ("Qwen3MoeForCausalLM", "qwen3moe"), ("GPT2LMHeadModel", "gpt2")],
)
def test_families(architecture: str, family: str) -> None:
    assert family_of(model("m", architecture)) == family
    assert family_of(model("m")) == "unknown"
