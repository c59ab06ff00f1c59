"""Input items of a response -> chat messages."""

from __future__ import annotations

from typing import Any

from sglcore.errors import RequestError
from sglcore.server.absent import unsupported
from sglcore.server.generation import new_rid
from sglcore.text.chat_messages import MEDIA_FAMILIES

ROLES = ("user", "assistant", "system", "developer")
TEXTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")
MEDIA = MEDIA_FAMILIES | {"input_file": "models (files)"}

Message = dict[str, Any]


def input_items(given: str | list[Any]) -> list[dict[str, Any]]:
    """The items as they are listed: each with a type and an id. Raises RequestError naming a wrong one."""
    if isinstance(given, str):
        given = [{"type": "message", "role": "user", "content": given}]
    items = []
    for i, item in enumerate(given):
        if not isinstance(item, dict):
            raise RequestError(f"`input[{i}]` is not an object.", param=f"input[{i}]")
        given_fields = {name: value for name, value in item.items() if value is not None}
        prefix = "msg_" if given_fields.get("type", "message") == "message" else "item_"
        items.append(_listed({"type": "message", "id": new_rid(prefix), **given_fields}))
    return items


def messages_of(items: list[dict[str, Any]]) -> list[Message]:
    """The messages that the items make: thoughts and calls belong to the assistant's message beside them."""
    messages: list[Message] = []
    for i, item in enumerate(items):
        kind, where = item["type"], f"input[{i}]"
        known = isinstance(kind, str) and kind in _READERS
        if not known:
            raise unsupported(f"{where}.type", f"tools ({str(kind)[:40]})")
        _READERS[kind](messages, item, where)
    return messages


def prompt_messages(instructions: str | None, messages: list[Message]) -> list[Message]:
    """With the instructions before all: templates want one system message, so those at the start are made one."""
    leading: list[Message] = []
    while len(leading) < len(messages) and messages[len(leading)]["role"] in ("system", "developer"):
        leading.append(messages[len(leading)])
    rest = messages[len(leading) :]
    texts = [text for text in (instructions, *(m["content"] for m in leading)) if text]
    return [{"role": "system", "content": "\n\n".join(texts)}, *rest] if texts else rest


def _listed(item: dict[str, Any]) -> dict[str, Any]:
    """A message's text as parts, as it is listed."""
    if item["type"] == "message" and isinstance(item.get("content"), str):
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        return item | {"content": [{"type": kind, "text": item["content"]}]}
    return item


def _message(messages: list[Message], item: dict[str, Any], where: str) -> None:
    role = item.get("role")
    if role not in ROLES:
        raise RequestError(f"`{where}.role` must be one of {', '.join(ROLES)}.", param=f"{where}.role")
    text = _text(item.get("content"), f"{where}.content")
    if role == "assistant" and _open(messages) and not messages[-1]["content"] and "tool_calls" not in messages[-1]:
        messages[-1]["content"] = text  # its thoughts came before
        return
    messages.append({"role": role, "content": text})


def _reasoning(messages: list[Message], item: dict[str, Any], where: str) -> None:
    parts = item.get("content") or item.get("summary") or []
    text = _text(parts, f"{where}.content")
    if text:
        messages.append({"role": "assistant", "content": "", "reasoning_content": text})


def _call(messages: list[Message], item: dict[str, Any], where: str) -> None:
    name, arguments = _string(item, "name", where), _string(item, "arguments", where)
    call = {"id": _string(item, "call_id", where), "type": "function"}
    if not _open(messages):
        messages.append({"role": "assistant", "content": ""})
    calls = messages[-1].setdefault("tool_calls", [])
    calls.append(call | {"function": {"name": name, "arguments": arguments}})


def _call_output(messages: list[Message], item: dict[str, Any], where: str) -> None:
    call = _string(item, "call_id", where)
    messages.append({"role": "tool", "tool_call_id": call, "content": _text(item.get("output"), f"{where}.output")})


_READERS = {
    "message": _message,
    "reasoning": _reasoning,
    "function_call": _call,
    "function_call_output": _call_output,
}


def _open(messages: list[Message]) -> bool:
    return bool(messages) and messages[-1]["role"] == "assistant"


def _string(item: dict[str, Any], name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise RequestError(f"`{where}.{name}` must be a text.", param=f"{where}.{name}")
    return value


def _text(content: Any, where: str) -> str:
    """The text of a text or of a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(f"`{where}` must be a text or a list of parts.", param=where)
    return "".join(_part(part, f"{where}[{i}]") for i, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get("refusal" if kind == "refusal" else "text") if isinstance(part, dict) else None
    if kind in (*TEXTS, "refusal") and isinstance(text, str):
        return text
    if isinstance(kind, str) and kind in MEDIA:
        raise unsupported(where, MEDIA[kind])
    raise RequestError(f'`{where}` must look like {{"type": "input_text", "text": "..."}}.', param=where)
