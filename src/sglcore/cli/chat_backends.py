"""Who answers in `sglcore chat`: an engine in this process, or a server over the OpenAI chat endpoint."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import SplitResult, urlsplit

from sglcore.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from sglcore.llm import LLM

Message = dict[str, str]
CONNECT_SECONDS = 600  # also the longest silence; a long prompt may take its time before the first token
OPENAI_NAMES = {"max_new_tokens": "max_tokens"}


@dataclass(frozen=True)
class Piece:
    """What an answer grew by. `tokens` counts all of the answer's tokens so far."""

    text: str
    tokens: int


class Backend(Protocol):
    """Answers conversations.

    name: the model's, for the greeting.
    interruptible: whether KeyboardInterrupt may break into a reply at any point. An engine in this process must
        be left between two steps instead.
    """

    name: str
    interruptible: bool

    def reply(self, messages: list[Message]) -> Iterator[Piece]:
        """Stream the answer; closing the iterator gives the rest up. Raises RequestError or ConfigError."""
        ...

    def close(self) -> None:
        """Let go of what answers."""
        ...


class LocalBackend:
    """An engine in this process."""

    interruptible = False

    def __init__(self, llm: LLM, name: str, sampling: dict[str, Any]) -> None:
        self.name = name
        self._llm = llm
        self._sampling = sampling

    def reply(self, messages: list[Message]) -> Iterator[Piece]:
        written = 0
        answers = self._llm.stream_chat(list(messages), self._sampling)
        try:
            for answer in answers:
                text = answer["text"]
                yield Piece(text[written:], int(answer["meta_info"]["completion_tokens"]))
                written = len(text)
        finally:
            with suppress(AttributeError):
                answers.close()  # type: ignore[attr-defined]

    def close(self) -> None:
        self._llm.close()


class RemoteBackend:
    """A running server. `url` is its root, with or without /v1; `model` empty asks it which model it serves.

    Raises ConfigError if the URL cannot be used or nobody answers there.
    """

    interruptible = True

    def __init__(self, url: str, model: str, api_key: str | None, sampling: dict[str, Any]) -> None:
        self._url = _parse(url)
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._sampling = {OPENAI_NAMES.get(name, name): value for name, value in sampling.items()}
        self.name = model or self._first_model()

    def reply(self, messages: list[Message]) -> Iterator[Piece]:
        options = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
        body = {"model": self.name, "messages": messages, **options, **self._sampling}
        connection, response = self._ask("POST", "/v1/chat/completions", json.dumps(body).encode())
        try:
            yield from _pieces(response)
        except (OSError, http.client.HTTPException) as error:
            raise RequestError(f"The server broke off: {error or type(error).__name__}.") from None
        finally:
            connection.close()

    def close(self) -> None:
        """Nothing is kept open between two replies."""

    def _first_model(self) -> str:
        connection, response = self._ask("GET", "/v1/models")
        try:
            return str(json.loads(response.read())["data"][0]["id"])
        except (ValueError, LookupError, TypeError):
            raise ConfigError(f"{self._url.geturl()} does not list a model at /v1/models.") from None
        finally:
            connection.close()

    def _ask(
        self, method: str, path: str, body: bytes | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._url.hostname or "", self._url.port, timeout=CONNECT_SECONDS)
        root = self._url.path.rstrip("/").removesuffix("/v1")
        try:
            connection.request(method, root + path, body, self._headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ConfigError(
                f"No server answers at {self._url.geturl()}: {error or type(error).__name__}.",
                remedy="Start one with `sglcore serve MODEL`, or check the URL.",
            ) from None
        if response.status != http.HTTPStatus.OK:
            text = response.read().decode(errors="replace")
            connection.close()
            raise RequestError(_reason(text, response.status), status=response.status)
        return connection, response


def _pieces(response: http.client.HTTPResponse) -> Iterator[Piece]:
    """The pieces of a stream of chat.completion.chunk events. Tokens are counted by events until usage is told."""
    tokens = 0
    for event in _events(response):
        if "error" in event:
            raise RequestError(_message(event["error"]))
        choices = event.get("choices") or [{}]
        text = (choices[0].get("delta") or {}).get("content") or ""
        usage = event.get("usage") or {}
        told = usage.get("completion_tokens")
        tokens = int(told) if told is not None else tokens + bool(text)
        if text or told is not None:
            yield Piece(text, tokens)


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The JSON of every `data:` line, up to [DONE]."""
    for line in response:
        field, _, content = line.decode().strip().partition(":")
        content = content.strip()
        if field != "data" or not content:
            continue
        if content == "[DONE]":
            return
        event = json.loads(content)
        if isinstance(event, dict):
            yield event
    raise RequestError("The server closed the stream before its end.")


def _parse(url: str) -> SplitResult:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f"--url {url!r} is not a server's URL.", remedy="For example http://127.0.0.1:30000.")
    return parts


def _reason(text: str, status: int) -> str:
    try:
        body = json.loads(text)
    except ValueError:
        return f"The server answered {status}: {text[:200]}"
    return _message(body.get("error", body) if isinstance(body, dict) else body)


def _message(error: Any) -> str:
    return str(error.get("message", error) if isinstance(error, dict) else error)
