"""Dialects: what a server is asked, and how its answers are read.

Answers are read as they stream: of each event only what counts is decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from sglcore.bench.datasets import Ask
from sglcore.bench.http_client import Failed

PREFIX = b"data:"
DONE = b"[DONE]"


@dataclass(frozen=True)
class Wish:
    """What all requests of a run have in common. extra: fields laid over the body."""

    model: str
    stream: bool
    ignore_eos: bool
    logprobs: bool
    extra: dict[str, Any]


class Reader(Protocol):
    """Reads one answer. tokens: how many the server says it has given, 0 where it does not say."""

    tokens: int

    def event(self, data: bytes) -> int:
        """Take one event's data; how many tokens it brought. Raises Failed, msgspec.DecodeError."""
        ...

    def text(self) -> str:
        """The text so far."""
        ...


@dataclass(frozen=True)
class Backend:
    """path: of the endpoint. port: where such a server listens by default. ids: takes token ids as a prompt."""

    path: str
    port: int
    body: Callable[[Ask, Wish], dict[str, Any]]
    reader: Callable[[], Reader]
    ids: bool = False


class _Error(msgspec.Struct):
    message: str = "the server reports an error"


class _NativeMeta(msgspec.Struct):
    completion_tokens: int = 0


class _NativeEvent(msgspec.Struct):
    meta_info: _NativeMeta = msgspec.field(default_factory=_NativeMeta)
    error: _Error | None = None


class _NativeText(msgspec.Struct):
    text: str = ""


class NativeReader:
    """SGLang's /generate: each event has the whole text so far, and says how many tokens that is."""

    _decode = staticmethod(msgspec.json.Decoder(_NativeEvent).decode)

    def __init__(self) -> None:
        self.tokens = 0
        self._last = b"{}"

    def event(self, data: bytes) -> int:
        found: _NativeEvent = self._decode(data)
        if found.error is not None:
            raise Failed(found.error.message)
        new = found.meta_info.completion_tokens - self.tokens
        self.tokens += new
        self._last = data
        return new

    def text(self) -> str:
        return msgspec.json.decode(self._last, type=_NativeText).text


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    message: _Delta | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int | None = None


class _OpenAIEvent(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


class OpenAIReader:
    """OpenAI's completions and chat completions: each event has a piece; the tokens are counted at the end."""

    _decode = staticmethod(msgspec.json.Decoder(_OpenAIEvent).decode)

    def __init__(self) -> None:
        self.tokens = 0
        self._pieces: list[str] = []

    def event(self, data: bytes) -> int:
        found: _OpenAIEvent = self._decode(data)
        if found.error is not None:
            raise Failed(found.error.message)
        if found.usage is not None and found.usage.completion_tokens is not None:
            self.tokens = found.usage.completion_tokens
        piece = "".join(_piece(choice) for choice in found.choices)
        if piece:
            self._pieces.append(piece)
        return 1 if piece else 0

    def text(self) -> str:
        return "".join(self._pieces)


def _piece(choice: _Choice) -> str:
    said = choice.delta or choice.message
    if said is None:
        return choice.text or ""
    return (said.reasoning_content or "") + (said.content or "")


def native_body(ask: Ask, wish: Wish) -> dict[str, Any]:
    """The body of /generate."""
    return {
        "text" if isinstance(ask.prompt, str) else "input_ids": ask.prompt,
        "sampling_params": {"temperature": 0.0, "max_new_tokens": ask.output_len, "ignore_eos": wish.ignore_eos},
        "stream": wish.stream,
        "return_logprob": wish.logprobs,
        "logprob_start_len": -1,
        **wish.extra,
    }


def completion_body(ask: Ask, wish: Wish) -> dict[str, Any]:
    """The body of /v1/completions."""
    return {"prompt": ask.prompt, **_openai(ask, wish), **({"logprobs": 1} if wish.logprobs else {}), **wish.extra}


def chat_body(ask: Ask, wish: Wish) -> dict[str, Any]:
    """The body of /v1/chat/completions: the prompt is what the user says."""
    said = [{"role": "user", "content": ask.prompt}]
    return {"messages": said, **_openai(ask, wish), **({"logprobs": True} if wish.logprobs else {}), **wish.extra}


def _openai(ask: Ask, wish: Wish) -> dict[str, Any]:
    common: dict[str, Any] = {"model": wish.model, "max_tokens": ask.output_len, "temperature": 0.0}
    if wish.ignore_eos:
        common["ignore_eos"] = True
    return common | {"stream": wish.stream} | ({"stream_options": {"include_usage": True}} if wish.stream else {})


def _plain_openai(body: Callable[[Ask, Wish], dict[str, Any]]) -> Callable[[Ask, Wish], dict[str, Any]]:
    """Without `ignore_eos`, which is an extension that OpenAI itself refuses."""

    def made(ask: Ask, wish: Wish) -> dict[str, Any]:
        return {name: value for name, value in body(ask, wish).items() if name != "ignore_eos"}

    return made


def _oai(port: int, body: Callable[[Ask, Wish], dict[str, Any]] = completion_body) -> Backend:
    return Backend("/v1/completions", port, body, OpenAIReader)


def _chat(port: int, body: Callable[[Ask, Wish], dict[str, Any]] = chat_body) -> Backend:
    return Backend("/v1/chat/completions", port, body, OpenAIReader)


_NATIVE = Backend("/generate", 30000, native_body, NativeReader, ids=True)
BACKENDS: dict[str, Backend] = {
    "sglang": _NATIVE,
    "sglang-native": _NATIVE,
    "sglang-oai": _oai(30000),
    "sglang-oai-chat": _chat(30000),
    "vllm": _oai(8000),
    "vllm-chat": _chat(8000),
    "lmdeploy": _oai(23333),
    "lmdeploy-chat": _chat(23333),
    "openai": _oai(8000, _plain_openai(completion_body)),
    "openai-chat": _chat(8000, _plain_openai(chat_body)),
}
