"""An engine, a text service and a context that need no model: what routes are handed while they are tested."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from starlette.responses import JSONResponse

from sglcore.contracts.routes import ModelInfo
from sglcore.contracts.services import ChatService, EngineClient, HttpService, TextService
from sglcore.errors import EngineDead, RequestError
from sglcore.request import FinishReason, GenerateRequest, RequestOutput
from sglcore.server.face import Face
from sglcore.server.http_service import Http
from sglcore.server.turns import Turns
from sglcore.server_config import ServerConfig

END = 256  # the token that ends an answer; tokens below it are the bytes of UTF-8
VOCABULARY = 257


@dataclass
class StandInEngine:
    """Implements `contracts.EngineClient`: every branch says `answer`, one byte a step. dead: it is gone instead.

    requests: what it was asked.
    """

    answer: str = "fine"
    dead: bool = False
    requests: list[GenerateRequest] = field(default_factory=list)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[list[RequestOutput]]:
        """One delivery a token."""
        self._check()
        self.requests.append(request)
        prompt = len(request.token_ids())
        ids = [*self.answer.encode(), END][: request.sampling.max_new_tokens]
        for i, token in enumerate(ids):
            last = i == len(ids) - 1
            finish = FinishReason("stop" if token == END else "length") if last else None
            yield [
                RequestOutput(request.rid, branch, [token], prompt_tokens=prompt, finish=finish)
                for branch in range(request.n)
            ]

    def end_branch(self, rid: str, branch: int) -> None:
        """Nothing to save: the stand-in computes nothing."""

    async def abort(self, rid: str, message: str = "") -> int:
        """How many requests of that id or prefix there were."""
        self._check()
        return sum(request.rid.startswith(rid) for request in self.requests)

    async def call(self, name: str, **arguments: Any) -> Any:
        """The core's control calls."""
        self._check()
        answers: dict[str, Any] = {"info": {}, "metrics": {}, "flush_cache": {"success": True}}
        if name not in answers:
            raise RequestError(f"The engine has no call {name!r}.")
        return answers[name]

    @property
    def healthy(self) -> bool:
        """Whether it is not dead."""
        return not self.dead

    def _check(self) -> None:
        if self.dead:
            raise EngineDead("The stand-in engine is gone on purpose.")


class StandInDetokenizer:
    """Implements `contracts.Detokenizer`: holds back the bytes of a character that is not whole yet."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Iterable[int]) -> str:
        """Take ids, give whole characters."""
        return self._decoder.decode(bytes(i for i in ids if i < END))

    def finish(self) -> str:
        """What was held back."""
        return self._decoder.decode(b"", final=True)


class StandInStops:
    """Implements `contracts.StopFinder`: holds back as much as a stop string may still claim."""

    def __init__(self, stops: tuple[str, ...], trim: bool) -> None:
        self.matched: str | None = None
        self._stops, self._trim, self._held = stops, trim, ""

    def push(self, text: str) -> str:
        """Take text, give what no stop string can claim."""
        if self.matched is not None:
            return ""
        text = self._held + text
        found = min((at, stop) for stop in self._stops if (at := text.find(stop)) >= 0) if self._any(text) else None
        if found is not None:
            self.matched, self._held = found[1], ""
            return text[: found[0] + (0 if self._trim else len(found[1]))]
        keep = max((len(stop) for stop in self._stops), default=1) - 1
        self._held = text[len(text) - keep :] if keep else ""
        return text[: len(text) - len(self._held)]

    def finish(self) -> str:
        """What was held back."""
        text, self._held = self._held, ""
        return text

    def _any(self, text: str) -> bool:
        return any(stop in text for stop in self._stops)


class StandInText:
    """Implements `contracts.TextService`: one token a byte."""

    eos_token_ids: tuple[int, ...] = (END,)
    has_chat_template: bool = True

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The bytes of UTF-8."""
        return list(text.encode(errors="replace"))

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Bytes to text; the end token is nothing."""
        return bytes(i for i in ids if i < END).decode(errors="replace")

    @property
    def template_variables(self) -> frozenset[str]:
        """Those of the stand-in template."""
        return frozenset({"messages"})

    @property
    def reads_tools(self) -> bool:
        """It does not."""
        return False

    def detokenizer(self, *, skip_special_tokens: bool = True) -> StandInDetokenizer:
        """A fresh one."""
        return StandInDetokenizer()

    def stop_finder(self, stops: Sequence[str], *, trim: bool = True) -> StandInStops:
        """A fresh one."""
        return StandInStops(tuple(stops), trim)

    def token_bytes(self, token_id: int) -> bytes:
        """One byte a token, none for the end."""
        return bytes([token_id]) if 0 <= token_id < END else b""

    def render_chat(self, messages: list[dict[str, Any]], **template_arguments: Any) -> str:
        """`role: content` a line. Raises RequestError where a message has neither."""
        try:
            return "".join(f"{message['role']}: {message['content']}\n" for message in messages)
        except (KeyError, TypeError, IndexError) as error:
            raise RequestError(f"The chat template fails: {error}.", param="messages") from None


class StandInTurn:
    """Implements `contracts.Turn`: gives what it was made with, a list of events a delivery; an exception is raised."""

    def __init__(self, deliveries: Sequence[Any], rid: str, prompt_tokens: int) -> None:
        self.rid = rid
        self.prompt_tokens = prompt_tokens
        self.left = False  # closed before its end
        self._deliveries = deliveries

    async def events(self, *, stream: bool = True) -> AsyncGenerator[list[Any], None]:
        """The deliveries; in one list where `stream` is false."""
        self.left, whole = True, []
        for events in self._deliveries:
            if isinstance(events, Exception):
                raise events
            if stream:
                yield list(events)
            whole += events
        if not stream:
            yield whole
        self.left = False


@dataclass
class StandInChat:
    """Implements `contracts.ChatService` without a server: turn by turn it gives what it was made with.

    turns: for each turn its deliveries (a list of events each, the last with a TurnEnd), or an exception that `begin`
    and `complete` raise. bodies: (method, body) as it was asked. given: the turns that were begun.
    """

    turns: Sequence[Any] = ()
    prompt_tokens: int = 7
    bodies: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    given: list[StandInTurn] = field(default_factory=list)

    async def begin(self, body: dict[str, Any]) -> StandInTurn:
        """The next turn."""
        return self._next("begin", body)

    async def complete(self, body: dict[str, Any]) -> StandInTurn:
        """The next turn."""
        return self._next("complete", body)

    async def count(self, body: dict[str, Any]) -> int:
        """`prompt_tokens`."""
        self.bodies.append(("count", body))
        return self.prompt_tokens

    async def openai(self, request: Any, path: str, body: dict[str, Any]) -> JSONResponse:
        """An empty object."""
        self.bodies.append((path, body))
        return JSONResponse({})

    def _next(self, how: str, body: dict[str, Any]) -> StandInTurn:
        self.bodies.append((how, body))
        turn = self.turns[len(self.given)]
        if isinstance(turn, Exception):
            raise turn
        self.given.append(StandInTurn(turn, f"turn-{len(self.given)}", self.prompt_tokens))
        return self.given[-1]


@dataclass
class StandInContext:
    """Implements `contracts.RouteContext`. `chat` and `http` are the server's own over the stand-ins, unless it was
    made with another `chat`."""

    config: ServerConfig
    engine: EngineClient
    text: TextService | None
    model: ModelInfo
    scripted: ChatService | None = None

    @cached_property
    def face(self) -> Face:
        """What the server's own dialects share over this context."""
        return Face.of(self)

    @cached_property
    def chat(self) -> ChatService:
        """See RouteContext."""
        return self.scripted or Turns(self.face)

    @cached_property
    def http(self) -> HttpService:
        """See RouteContext."""
        return Http()


def stand_in_context(
    *, dead: bool = False, answer: str = "fine", chat: ChatService | None = None, **config: Any
) -> StandInContext:
    """A served model `stand-in` over stand-ins.

    answer: what the model says. chat: e.g. a StandInChat, in place of the server's own. config: fields of ServerConfig.
    """
    model = ModelInfo(
        name="stand-in",
        path="org/stand-in",
        architectures=("StandInForCausalLM",),
        context_length=512,
        vocab_size=VOCABULARY,
        created=1_700_000_000,
        sampling_defaults={},
    )
    given = ServerConfig(**{"model_path": "org/stand-in", **config})
    return StandInContext(given, StandInEngine(answer, dead=dead), StandInText(), model, chat)
