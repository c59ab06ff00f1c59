"""What goes over the wire in the dialects of plugins, byte for byte; ids and times are masked.

`SGLCORE_WRITE_TRANSCRIPTS=1` writes the files anew: look at the difference before you keep it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from server.client import http_client
from server.dialects import CONTEXT, dialect_context, masked, script
from server.parsing import NOW, WEATHER
from server.scripted import ScriptedEngine

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
SCHEMA = WEATHER["function"]["parameters"]


def said(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **fields}


MESSAGES, CHAT = "/v1/messages", "/api/chat"
ANTHROPIC_TOOLS = [{"name": "get_weather", "input_schema": SCHEMA}, {"name": "now", "input_schema": {}}]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "anthropic_message": (MESSAGES, said("hello", max_tokens=99)),
    "anthropic_stream": (MESSAGES, said("hello", max_tokens=99, stream=True)),
    "anthropic_tools": (
        MESSAGES,
        said(
            "Weather?",
            max_tokens=2000,
            stream=True,
            tools=ANTHROPIC_TOOLS,
            thinking={"type": "enabled", "budget_tokens": 1024},
        ),
    ),
    "anthropic_stop_sequence": (MESSAGES, said("hello", max_tokens=99, stream=True, stop_sequences=[", how"])),
    "anthropic_refused": (MESSAGES, said("hello", max_tokens=99, stream=True, temperature=-1)),
    "anthropic_broken": (MESSAGES, said("Break", max_tokens=99, stream=True)),
    "ollama_chat": (CHAT, said("hello", stream=False)),
    "ollama_chat_stream": (CHAT, said("hello")),
    "ollama_chat_tools": (CHAT, said("Weather?", tools=[WEATHER, NOW])),
    "ollama_generate_stream": ("/api/generate", {"model": "tiny", "prompt": "hello", "options": {"num_predict": 4}}),
    "ollama_load": ("/api/generate", {"model": "tiny"}),
    "ollama_refused": (CHAT, said("hello", format="json")),
    "ollama_broken": (CHAT, said("Break")),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("name", CASES)
async def test_transcript(name: str) -> None:
    path, body = CASES[name]
    context, routes = dialect_context(ScriptedEngine(script))
    assert context.model.context_length == CONTEXT
    async with http_client(context, tuple(routes)) as client:
        answer = await client.post(path, json=body)
    head = f"HTTP {answer.status_code}\n{answer.headers['content-type']}\n\n".encode()
    got = head + masked(answer.content)
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("SGLCORE_WRITE_TRANSCRIPTS"):
        GOLDEN.mkdir(exist_ok=True)
        file.write_bytes(got)
    assert got == file.read_bytes()
