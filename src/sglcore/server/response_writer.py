"""A turn's events -> a response of OpenAI's Responses API, and the events that tell of it."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from sglcore.contracts.parsers import ArgumentsDelta, CallEnded, CallStarted, ReasoningDelta, TextDelta
from sglcore.contracts.routes import Problem
from sglcore.contracts.services import TurnEnd
from sglcore.server.response_fields import ResponseFields
from sglcore.server.response_items import Event, FunctionCall, Item, Message, PartItem, Thought

_encoder = msgspec.json.Encoder()

CODES = {429: "rate_limit_exceeded"}  # else server_error, in a response's `error`


def encoded(event: Event) -> bytes:
    """An event as it is sent: its type is told twice."""
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), _encoder.encode(event))


class ResponseWriter:
    """Grows one response. logprobs handed to `take` belong to the text of that delivery."""

    def __init__(self, name: str, model: str, asked: ResponseFields, sampling: dict[str, Any]) -> None:
        self.name = name
        self.status = "in_progress"
        self.items: list[Item] = []
        self._open: Item | None = None
        self._asked = asked
        self._model = model
        self._sampling = sampling
        self._created = int(time.time())
        self._number = -1
        self._usage: dict[str, Any] | None = None
        self._error: dict[str, Any] | None = None
        self._incomplete: dict[str, str] | None = None
        self._warnings: list[dict[str, Any]] = []

    def queued(self) -> None:
        """It waits for a while that nobody watches."""
        self.status = "queued"

    def begin(self) -> list[Event]:
        """It has begun."""
        self.status = "in_progress"
        return self._numbered([self._whole("created"), self._whole("in_progress")])

    def take(self, events: list[Any], logprobs: list[dict[str, Any]]) -> list[Event]:
        """The next events of the turn, without its end."""
        told: list[Event] = []
        for event in events:
            told += self._taken(event, logprobs)
            if isinstance(event, TextDelta):
                logprobs = []
        return self._numbered(told)

    def end(self, end: TurnEnd) -> list[Event]:
        """The turn has ended."""
        cut = end.reason in ("length", "abort")
        told = self._close("incomplete" if cut else "completed")
        self.status = {"length": "incomplete", "abort": "failed"}.get(end.reason, "completed")
        if end.reason == "length":
            self._incomplete = {"reason": "max_output_tokens"}
        if end.reason == "abort":
            self._error = {"code": "server_error", "message": end.message or "Aborted."}
        self._usage = _usage(end)
        self._warnings = end.warnings
        return self._numbered([*told, self._whole(self.status)])

    def fail(self, problem: Problem) -> list[Event]:
        """It went wrong on the way."""
        told = self._close("incomplete")
        self.status = "failed"
        self._error = {"code": CODES.get(problem.status, "server_error"), "message": problem.message}
        return self._numbered([*told, self._whole("failed")])

    def cancel(self) -> None:
        """Somebody wanted it to end."""
        self._close("incomplete")
        self.status = "cancelled"

    def response(self) -> dict[str, Any]:
        """The response as it stands."""
        asked = self._asked
        return {
            "id": self.name,
            "object": "response",
            "created_at": self._created,
            "status": self.status,
            "background": asked.background,
            "error": self._error,
            "incomplete_details": self._incomplete,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "max_tool_calls": asked.max_tool_calls,
            "metadata": asked.metadata,
            "model": self._model,
            "output": [item.body() for item in self.items],
            "parallel_tool_calls": asked.parallel_tool_calls,
            "previous_response_id": asked.previous_response_id,
            "prompt_cache_key": asked.prompt_cache_key,
            "reasoning": {"effort": asked.reasoning.effort if asked.reasoning else None, "summary": None},
            "safety_identifier": asked.safety_identifier,
            "service_tier": "default",
            "store": asked.store,
            "text": {"format": {"type": "text"}},
            "tool_choice": asked.tool_choice,
            "tools": asked.tools,
            "top_logprobs": asked.top_logprobs,
            "truncation": asked.truncation,
            "usage": self._usage,
            "user": asked.user,
            **self._sampling,
        } | ({"warnings": self._warnings} if self._warnings else {})

    def message(self) -> dict[str, Any] | None:
        """The assistant's message for the turns after this one."""
        thought = "".join(item.text for item in self.items if isinstance(item, Thought))
        text = "".join(item.text for item in self.items if isinstance(item, Message))
        calls = [_chat_call(item) for item in self.items if isinstance(item, FunctionCall)]
        if not (thought or text or calls):
            return None
        beside = ({"reasoning_content": thought} if thought else {}) | ({"tool_calls": calls} if calls else {})
        return {"role": "assistant", "content": text} | beside

    def _taken(self, event: Any, logprobs: list[dict[str, Any]]) -> list[Event]:
        if isinstance(event, TextDelta | ReasoningDelta):
            kind = Message if isinstance(event, TextDelta) else Thought
            told = [] if type(self._open) is kind else self._opened(kind(len(self.items)))
            assert isinstance(self._open, PartItem)
            return [*told, self._open.grow(event.text, logprobs if kind is Message else [])]
        if isinstance(event, CallStarted):
            return self._opened(FunctionCall(len(self.items), event))
        if isinstance(event, ArgumentsDelta) and isinstance(self._open, FunctionCall):
            return [self._open.grow(event.text)]
        return self._close("completed") if isinstance(event, CallEnded) else []

    def _opened(self, item: Item) -> list[Event]:
        closed = self._close("completed")
        self.items.append(item)
        self._open = item
        return [*closed, *item.begin()]

    def _close(self, status: str) -> list[Event]:
        item, self._open = self._open, None
        return [] if item is None else item.end(status)

    def _whole(self, what: str) -> Event:
        return {"type": f"response.{what}", "response": self.response()}

    def _numbered(self, events: list[Event]) -> list[Event]:
        for event in events:
            self._number += 1
            event["sequence_number"] = self._number
        return events


def _usage(end: TurnEnd) -> dict[str, Any]:
    return {
        "input_tokens": end.prompt_tokens,
        "input_tokens_details": {"cached_tokens": end.cached_tokens},
        "output_tokens": end.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": end.reasoning_tokens or 0},
        "total_tokens": end.prompt_tokens + end.completion_tokens,
    }


def _chat_call(item: FunctionCall) -> dict[str, Any]:
    return {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.text}}
