"""Messages in content blocks -> messages as OpenAI's dialect has them.

One message of a user may hold several tools' results beside text, so it becomes several; neighbours of one role become
one, as Anthropic's API treats them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

import msgspec

from sglcore_plugin_anthropic.fields import record, records, text, unsupported, wrong

IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
ROLES = ("user", "assistant", "system")

Messages = list[dict[str, Any]]


class History:
    """The translated messages, and for each the place it came from.

    Raises RequestError, from its construction, naming the block that is malformed or of a kind not known.
    """

    def __init__(self, system: Any, messages: Any) -> None:
        self.messages: Messages = []
        self.places: list[str] = []
        self._tools: dict[str, str] = {}  # id of a call -> the tool's name
        if system is not None and (said := _joined(_texts(system, "system"))):
            self._add("system", {"role": "system", "content": said})
        for i, message in enumerate(records(messages, "messages")):
            where = f"messages[{i}]"
            role = message.get("role")
            if role not in ROLES:
                raise wrong(f"{where}.role", "user or assistant")
            if role == "assistant":
                self._assistant(message.get("content"), where)
            else:
                self._user(role, message.get("content"), where)

    @property
    def prefilled(self) -> bool:
        """Whether the answer goes on with an assistant's text."""
        last = self.messages[-1] if self.messages else {}
        return last.get("role") == "assistant" and bool(last["content"]) and "tool_calls" not in last

    def _user(self, role: str, content: Any, where: str) -> None:
        parts: list[dict[str, Any]] = []
        for block, place in _blocks(content, f"{where}.content"):
            if block.get("type") == "tool_result":
                self._said(role, parts, where)
                parts = []
                self._add(where, self._result(block, place))
            else:
                parts.append(_part(block, place))
        self._said(role, parts, where)

    def _said(self, role: str, parts: list[dict[str, Any]], where: str) -> None:
        if parts:
            told = [part["text"] for part in parts if part["type"] == "text"]
            self._add(where, {"role": role, "content": _joined(told) if len(told) == len(parts) else parts})

    def _result(self, block: dict[str, Any], where: str) -> dict[str, Any]:
        call = text(block.get("tool_use_id"), f"{where}.tool_use_id")
        blocks = _blocks(block.get("content", ""), f"{where}.content")
        parts = [_part(inner, place) for inner, place in blocks]
        if pictures := [place for part, (_, place) in zip(parts, blocks, strict=True) if part["type"] != "text"]:
            raise unsupported(pictures[0], "is an image in a tool's result", "models (vision)")
        told = _joined([part["text"] for part in parts])
        if block.get("is_error") is True and not told.lower().startswith("error"):
            told = f"Error: {told}"  # the chat has no other way to say so
        named = {"name": self._tools[call]} if call in self._tools else {}
        return {"role": "tool", "tool_call_id": call, **named, "content": told}

    def _assistant(self, content: Any, where: str) -> None:
        told: dict[str, list[Any]] = {"text": [], "thinking": [], "tool_use": []}
        for block, place in _blocks(content, f"{where}.content"):
            kind = block.get("type")
            if kind == "redacted_thinking":
                continue  # written by another server, for itself
            if kind not in told:
                raise wrong(f"{place}.type", "text, thinking, redacted_thinking or tool_use")
            told[kind].append(self._call(block, place) if kind == "tool_use" else text(block.get(kind), place))
        message: dict[str, Any] = {"role": "assistant", "content": _joined(told["text"])}
        if told["thinking"]:
            message["reasoning_content"] = _joined(told["thinking"])
        if told["tool_use"]:
            message["tool_calls"] = told["tool_use"]
        self._add(where, message)

    def _call(self, block: dict[str, Any], where: str) -> dict[str, Any]:
        call, name = text(block.get("id"), f"{where}.id"), text(block.get("name"), f"{where}.name")
        arguments = record(block.get("input", {}), f"{where}.input")
        self._tools[call] = name
        function = {"name": name, "arguments": msgspec.json.encode(arguments).decode()}
        return {"id": call, "type": "function", "function": function}

    def _add(self, where: str, message: dict[str, Any]) -> None:
        last = self.messages[-1] if self.messages else {}
        if message["role"] != "tool" and last.get("role") == message["role"] and _plain(last) and _plain(message):
            _merge(last, message)
        else:
            self.messages.append(message)
            self.places.append(where)


def _plain(message: dict[str, Any]) -> bool:
    return isinstance(message["content"], str)


def _merge(last: dict[str, Any], message: dict[str, Any]) -> None:
    for name in ("content", "reasoning_content"):
        if name in message:
            last[name] = _joined([last.get(name, ""), message[name]])
    if "tool_calls" in message:
        last["tool_calls"] = [*last.get("tool_calls", ()), *message["tool_calls"]]


def _joined(texts: list[str]) -> str:
    return "\n".join(said for said in texts if said)


def _blocks(content: Any, where: str) -> list[tuple[dict[str, Any], str]]:
    """Blocks with their places; a text stands for one block of text."""
    if isinstance(content, str):
        return [({"type": "text", "text": content}, where)]
    if not isinstance(content, list):
        raise wrong(where, "a text or a list of content blocks")
    return [(block, f"{where}[{i}]") for i, block in enumerate(records(content, where))]


def _texts(content: Any, where: str) -> list[str]:
    parts = [_part(block, place) for block, place in _blocks(content, where)]
    if any(part["type"] != "text" for part in parts):
        raise wrong(where, "a text or a list of text blocks")
    return [part["text"] for part in parts]


def _part(block: dict[str, Any], where: str) -> dict[str, Any]:
    """A block of a user as a part of a message: text, or an image by its address."""
    kind = block.get("type")
    if not isinstance(kind, str) or kind not in PARTS:
        raise wrong(f"{where}.type", f"one of {', '.join((*PARTS, 'tool_result'))}")
    return PARTS[kind](block, where)


def _text(block: dict[str, Any], where: str) -> dict[str, Any]:
    return {"type": "text", "text": text(block.get("text"), f"{where}.text")}


def _image(block: dict[str, Any], where: str) -> dict[str, Any]:
    source = record(block.get("source"), f"{where}.source")
    if source.get("type") == "base64":
        kind, data = source.get("media_type"), text(source.get("data"), f"{where}.source.data")
        if kind not in IMAGES:
            raise wrong(f"{where}.source.media_type", f"one of {', '.join(IMAGES)}")
        _check_base64(data, f"{where}.source.data")
        address = f"data:{kind};base64,{data}"
    elif source.get("type") == "url":
        address = text(source.get("url"), f"{where}.source.url")
        if not address.startswith(("http://", "https://")):
            raise wrong(f"{where}.source.url", "an http or https address")
    else:
        raise wrong(f"{where}.source.type", "base64 or url")
    return {"type": "image_url", "image_url": {"url": address}}


def _check_base64(data: str, where: str) -> None:
    try:
        if not base64.b64decode(data, validate=True):
            raise wrong(where, "an image; it is empty")
    except (binascii.Error, ValueError):
        raise wrong(where, "base64") from None


def _document(block: dict[str, Any], where: str) -> dict[str, Any]:
    source = record(block.get("source"), f"{where}.source")
    if source.get("type") != "text":
        raise unsupported(f"{where}.source.type", "asks for a document that is not plain text", "models (vision)")
    title = f"{text(block['title'], f'{where}.title')}\n" if "title" in block else ""
    return {"type": "text", "text": title + text(source.get("data"), f"{where}.source.data")}


def _search_result(block: dict[str, Any], where: str) -> dict[str, Any]:
    head = [text(block.get(name, ""), f"{where}.{name}") for name in ("title", "source")]
    return {"type": "text", "text": _joined([*head, *_texts(block.get("content", []), f"{where}.content")])}


PARTS: dict[str, Callable[[dict[str, Any], str], dict[str, Any]]] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "search_result": _search_result,
}
