"""Chat messages as a client sent them -> as a chat template expects them."""

from __future__ import annotations

import json
from typing import Any

from sglcore.errors import RequestError

MEDIA_FAMILIES = {
    "image_url": "models (vision)",
    "image": "models (vision)",
    "input_image": "models (vision)",
    "video_url": "models (vision)",
    "video": "models (vision)",
    "audio_url": "models (audio)",
    "audio": "models (audio)",
    "input_audio": "models (audio)",
}


def normalize_messages(messages: list[dict[str, Any]], *, keep_parts: bool) -> list[dict[str, Any]]:
    """Checked copies of `messages`: text parts joined by a space unless `keep_parts`, null content made empty, tool
    call arguments parsed, reasoning under the name templates read.

    Raises RequestError naming the message.
    """
    if not messages:
        raise RequestError("`messages` is empty.", param="messages", remedy="Send at least one message.")
    return [_normalize(m, f"messages[{i}]", keep_parts) for i, m in enumerate(messages)]


def _normalize(message: Any, where: str, keep_parts: bool) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise RequestError(f"`{where}` is not an object.", param=where)
    if not isinstance(message.get("role"), str) or not message["role"]:
        raise RequestError(f"`{where}.role` must be a text such as user or assistant.", param=f"{where}.role")
    result = dict(message)
    result["content"] = _content(message.get("content"), f"{where}.content", keep_parts)
    if isinstance(message.get("tool_calls"), list):
        result["tool_calls"] = [_tool_call(call) for call in message["tool_calls"]]
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(reasoning, str):
        result["reasoning_content"] = reasoning
    return result


def _content(content: Any, where: str, keep_parts: bool) -> str | list[dict[str, Any]]:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(f"`{where}` must be a text or a list of parts.", param=where)
    parts = [_part(part, f"{where}[{i}]") for i, part in enumerate(content)]
    return parts if keep_parts else " ".join(part["text"] for part in parts)


def _part(part: Any, where: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "input_text") and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if isinstance(kind, str) and kind not in ("text", "input_text"):
        family = MEDIA_FAMILIES.get(kind, "models (vision)")
        raise RequestError(
            f"`{where}` is a part of type {kind[:40]!r}; this model is served for text alone.",
            param=where,
            code="unsupported_parameter",
            remedy=f"Parts other than text need a plugin of family `{family}`.",
        )
    raise RequestError(f'`{where}` must look like {{"type": "text", "text": "..."}}.', param=where)


def _tool_call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return call
    return {**call, "function": {**function, "arguments": _arguments(function.get("arguments"))}}


def _arguments(arguments: Any) -> Any:
    """A call's arguments as the object that templates expect; what is not a JSON object stays as it is."""
    if not isinstance(arguments, str):
        return arguments
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return parsed if isinstance(parsed, dict) else arguments
