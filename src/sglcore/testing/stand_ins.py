"""An engine, a text service and a context that need no model: what routes are handed while they are tested."""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sglcore.config import ServerConfig
from sglcore.contracts.routes import ModelInfo
from sglcore.contracts.services import EngineClient, TextService
from sglcore.errors import EngineDead, RequestError
from sglcore.request import FinishReason, GenerateRequest, RequestOutput

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


@dataclass
class StandInContext:
    """Implements `contracts.RouteContext`."""

    config: ServerConfig
    engine: EngineClient
    text: TextService | None
    model: ModelInfo


def stand_in_context(*, dead: bool = False, **config: Any) -> StandInContext:
    """A served model `stand-in` over stand-ins. config: fields of ServerConfig."""
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
    return StandInContext(given, StandInEngine(dead=dead), StandInText(), model)
