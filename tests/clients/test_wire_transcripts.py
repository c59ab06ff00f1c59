"""What goes over the wire in OpenAI's dialect and the native one, byte for byte; ids and times are masked.

`SGLCORE_WRITE_TRANSCRIPTS=1` writes the files anew: look at the difference before you keep it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clients.wire import exchange, masked
from server.dialects import Live, live
from server.parsing import NOW, WEATHER

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
CHAT, COMPLETIONS, RESPONSES, GENERATE = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/generate"


def said(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **fields}


def flat(tool: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", **tool["function"]}


TOOLS = [WEATHER, NOW]
SHORT: dict[str, Any] = {"sampling_params": {"max_new_tokens": 6}, "stream": True}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "openai_chat": (CHAT, said("hello")),
    "openai_chat_stream": (CHAT, said("hello", stream=True)),
    "openai_chat_n": (CHAT, said("hello", stream=True, n=2, max_tokens=4)),
    "openai_chat_logprobs": (CHAT, said("hello", stream=True, logprobs=True, top_logprobs=2, max_tokens=3)),
    "openai_chat_tools": (CHAT, said("Weather?", tools=TOOLS)),
    "openai_chat_tools_stream": (CHAT, said("Weather?", stream=True, tools=TOOLS)),
    "openai_chat_usage": (CHAT, said("hello", stream=True, max_tokens=3, stream_options={"include_usage": True})),
    "openai_chat_continuous_usage": (
        CHAT,
        said(
            "hello", stream=True, max_tokens=3, stream_options={"continuous_usage_stats": True, "include_usage": True}
        ),
    ),
    "openai_chat_broken": (CHAT, said("Break", stream=True)),
    "openai_chat_aborted": (CHAT, said("Abort", stream=True)),
    "openai_chat_refused": (CHAT, said("hello", stream=True, temperature=-1)),
    "openai_completion": (COMPLETIONS, {"model": "tiny", "prompt": ["hello", "you"], "max_tokens": 4}),
    "openai_completion_stream": (
        COMPLETIONS,
        {"model": "tiny", "prompt": "hello", "stream": True, "max_tokens": 4, "logprobs": 1, "echo": True},
    ),
    "openai_completion_broken": (COMPLETIONS, {"model": "tiny", "prompt": "Break", "stream": True}),
    "openai_response": (RESPONSES, {"model": "tiny", "input": "hello"}),
    "openai_response_stream": (RESPONSES, {"model": "tiny", "input": "hello", "stream": True, "max_output_tokens": 4}),
    "openai_response_tools": (
        RESPONSES,
        {"model": "tiny", "input": "Weather?", "stream": True, "tools": [flat(tool) for tool in TOOLS]},
    ),
    "openai_response_broken": (RESPONSES, {"model": "tiny", "input": "Break", "stream": True}),
    "native_generate": (GENERATE, {"text": "hello", "sampling_params": {"max_new_tokens": 6}}),
    "native_generate_stream": (GENERATE, {"text": "hello", **SHORT}),
    "native_generate_batch": (GENERATE, {"text": ["hello", "you"], **SHORT}),
    "native_generate_logprobs": (GENERATE, {"text": "hello", "return_logprob": True, "top_logprobs_num": 1, **SHORT}),
    "native_generate_broken": (GENERATE, {"text": "Break", **SHORT}),
    "native_generate_refused": (GENERATE, {"text": "hello", "sampling_params": {"top_p": 7}, "stream": True}),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    yield from live()


@pytest.mark.parametrize("name", CASES)
def test_transcript(server: Live, name: str) -> None:
    got = masked(exchange(server.url, *CASES[name]))
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("SGLCORE_WRITE_TRANSCRIPTS"):
        file.write_bytes(got)
    assert got == file.read_bytes()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("name", ["openai_chat_stream", "native_generate_stream"])
def test_curl_sees_the_same(server: Live, name: str) -> None:
    path, body = CASES[name]
    command = ["curl", "-sN", f"{server.url}{path}", "-H", "Content-Type: application/json", "-d", "@-"]
    done = subprocess.run(command, input=msgspec.json.encode(body), capture_output=True, timeout=60, check=True)
    assert masked(done.stdout) == (GOLDEN / f"{name}.txt").read_bytes().partition(b"\r\n\r\n")[2]
