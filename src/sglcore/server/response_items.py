"""The output items of a response, each with the events that tell of its growth (OpenAI's streaming event types)."""

from __future__ import annotations

from typing import Any

from sglcore.contracts.parsers import CallStarted
from sglcore.server.generation import new_rid

Event = dict[str, Any]  # without its sequence number


class Item:
    """One item. `place` stands in each of its events; `status` goes from in_progress to completed or incomplete."""

    kind = ""
    prefix = ""

    def __init__(self, index: int) -> None:
        self.id = new_rid(self.prefix)
        self.status = "in_progress"
        self.pieces: list[str] = []
        self.place: Event = {"item_id": self.id, "output_index": index}
        self._index = index

    @property
    def text(self) -> str:
        """All of it so far."""
        return "".join(self.pieces)

    def body(self) -> dict[str, Any]:
        """The item as it is listed."""
        return {"id": self.id, "type": self.kind, "status": self.status}

    def begin(self) -> list[Event]:
        """It is there."""
        return [{"type": "response.output_item.added", "output_index": self._index, "item": self.body()}]

    def end(self, status: str) -> list[Event]:
        """It is complete, or was cut off."""
        closing = self.closing()
        self.status = status
        return [*closing, {"type": "response.output_item.done", "output_index": self._index, "item": self.body()}]

    def closing(self) -> list[Event]:
        """What is told of its content before it ends."""
        return []


class PartItem(Item):
    """An item with one part of text."""

    part = ""  # type of the part
    event = ""  # begins the names of its events

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.place |= {"content_index": 0}
        self.logprobs: list[dict[str, Any]] = []

    def content(self) -> dict[str, Any]:
        """The part."""
        return {"type": self.part, "text": self.text}

    def body(self) -> dict[str, Any]:
        """With its part, once there is text in it."""
        return super().body() | {"content": [self.content()] if self.pieces else []}

    def begin(self) -> list[Event]:
        """Item and part."""
        part = {"type": "response.content_part.added", **self.place, "part": self.content()}
        return [*super().begin(), part]

    def grow(self, text: str, logprobs: list[dict[str, Any]]) -> Event:
        """The next text."""
        self.pieces.append(text)
        self.logprobs += logprobs
        return {"type": f"{self.event}.delta", **self.place, "delta": text} | self.beside(logprobs)

    def closing(self) -> list[Event]:
        """The whole text, and the part."""
        text = {"type": f"{self.event}.done", **self.place, "text": self.text} | self.beside(self.logprobs)
        return [text, {"type": "response.content_part.done", **self.place, "part": self.content()}]

    def beside(self, logprobs: list[dict[str, Any]]) -> Event:
        """What stands beside its text."""
        return {}


class Thought(PartItem):
    """A reasoning item; nothing is summed up or encrypted."""

    kind, prefix, part, event = "reasoning", "rs_", "reasoning_text", "response.reasoning_text"

    def body(self) -> dict[str, Any]:
        """With an empty summary, which clients expect."""
        return super().body() | {"summary": [], "encrypted_content": None}


class Message(PartItem):
    """A message of the assistant."""

    kind, prefix, part, event = "message", "msg_", "output_text", "response.output_text"

    def content(self) -> dict[str, Any]:
        """The part, with the logprobs of its tokens."""
        return super().content() | {"annotations": [], "logprobs": list(self.logprobs)}

    def body(self) -> dict[str, Any]:
        """With its role."""
        return super().body() | {"role": "assistant"}

    def beside(self, logprobs: list[dict[str, Any]]) -> Event:
        """Logprobs of the tokens."""
        return {"logprobs": logprobs}


class FunctionCall(Item):
    """A call; its text is that of its arguments."""

    kind, prefix = "function_call", "fc_"

    def __init__(self, index: int, started: CallStarted) -> None:
        super().__init__(index)
        self.name, self.call_id = started.name, started.id

    def body(self) -> dict[str, Any]:
        """With its name and arguments."""
        return super().body() | {"call_id": self.call_id, "name": self.name, "arguments": self.text}

    def grow(self, text: str) -> Event:
        """The next arguments."""
        self.pieces.append(text)
        return {"type": "response.function_call_arguments.delta", **self.place, "delta": text}

    def closing(self) -> list[Event]:
        """All arguments."""
        kind = "response.function_call_arguments.done"
        return [{"type": kind, **self.place, "name": self.name, "arguments": self.text}]
