"""Ollama's chat messages -> messages as OpenAI's dialect has them.

Calls have no ids in Ollama's history and their results name the tool at most, so each result is given to the first
call that waits for one.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sglcore_plugin_ollama.fields import record, records, text, wrong

# How base64 of an image begins, by its kind: Ollama's clients do not say which it is.
MAGIC = {"iVBOR": "image/png", "/9j/": "image/jpeg", "R0lG": "image/gif", "UklG": "image/webp"}


def translate(given: Any) -> list[dict[str, Any]]:
    """The messages. Raises RequestError naming what is malformed."""
    waiting: list[tuple[str, str]] = []  # (id, tool) of calls without a result
    count = 0
    messages = []
    for i, message in enumerate(records(given, "messages")):
        where = f"messages[{i}]."
        told: dict[str, Any] = {"role": text(message, "role", where)}
        told["content"] = with_images(text(message, "content", where), message.get("images", []), f"{where}images")
        if thoughts := text(message, "thinking", where):
            told["reasoning_content"] = thoughts
        if "tool_calls" in message:
            calls = records(message["tool_calls"], f"{where}tool_calls")
            told["tool_calls"] = [_call(call, f"{where}tool_calls[{n}]", count + n) for n, call in enumerate(calls)]
            count += len(calls)
            waiting = [(call["id"], call["function"]["name"]) for call in told["tool_calls"]]
        if told["role"] == "tool":
            told |= _result_of(message, waiting, where)
        messages.append(told)
    return messages


def _call(call: dict[str, Any], where: str, number: int) -> dict[str, Any]:
    function = record(call.get("function"), f"{where}.function")
    arguments = function.get("arguments", {})
    if not isinstance(arguments, str):
        arguments = msgspec.json.encode(record(arguments, f"{where}.function.arguments")).decode()
    name = text(function, "name", f"{where}.function.")
    call_id = text(call, "id", f"{where}.") or f"call_{number}"
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _result_of(message: dict[str, Any], waiting: list[tuple[str, str]], where: str) -> dict[str, str]:
    """Which call a tool's message answers, as far as that can be told."""
    name = text(message, "tool_name", where) or text(message, "name", where)
    call = text(message, "tool_call_id", where)
    fits = [one for one in waiting if call in ("", one[0]) and name in ("", one[1])]
    if fits:
        waiting.remove(fits[0])
        call, name = fits[0]
    return {key: value for key, value in (("tool_call_id", call), ("name", name)) if value}


def with_images(content: str, images: Any, where: str) -> Any:
    """A message's content: its text, or where there are images the parts."""
    if images == []:
        return content
    if not isinstance(images, list) or not all(isinstance(image, str) and image for image in images):
        raise wrong(where, "a list of images in base64")
    parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if content else []
    for image in images:
        kind = next((kind for magic, kind in MAGIC.items() if image.startswith(magic)), "image/png")
        parts.append({"type": "image_url", "image_url": {"url": f"data:{kind};base64,{image}"}})
    return parts
