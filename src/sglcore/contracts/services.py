"""Services that plugins above the engine are handed: a way to the engine, and a way with text."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sglcore.contracts.parsers import ArgumentsDelta, CallEnded, CallStarted, ReasoningDelta, TextDelta
    from sglcore.contracts.routes import Problem
    from sglcore.request import GenerateRequest, RequestOutput


class EngineClient(Protocol):
    """The API side's door to the engine, in the API process. Used from the one event loop that it was made for."""

    def generate(self, request: GenerateRequest) -> AsyncIterator[list[RequestOutput]]:
        """Submit; yields what each step delivered for this request until all branches finished.

        Nothing is submitted before the first item is asked for. The outputs are the caller's. Leaving the iterator
        early (`aclose`, cancellation) aborts the request in the engine.
        Raises RequestError if the engine refuses it, EngineDead if the engine is gone.
        """
        ...

    async def abort(self, rid: str, message: str = "") -> int:
        """Abort the request with this id or id prefix ("" aborts all); returns how many it met.

        `message` is what the requests' finish reasons say; "" for "Aborted.".
        """
        ...

    def end_branch(self, rid: str, branch: int) -> None:
        """A stop string cut this branch of a request that goes on: it computes no more, and ends with one more output.

        Does not wait. May be left out by stand-ins that run no branches: callers ask with `hasattr`.
        """
        ...

    async def call(self, name: str, **arguments: Any) -> Any:
        """A rare control call ("flush_cache", "info", "metrics"); RequestError if it cannot be done now."""
        ...

    @property
    def healthy(self) -> bool:
        """Whether the engine lives, as far as this process has heard."""
        ...


class Detokenizer(Protocol):
    """Text of one branch, in order. What it holds back comes with a later `push` or with `finish`."""

    def push(self, ids: Sequence[int]) -> str:
        """Take the next token ids; return the text that is now certain."""
        ...

    def finish(self) -> str:
        """No more tokens follow; return what was held back."""
        ...


class StopFinder(Protocol):
    """Cuts the text of one branch at the first stop string, however the text comes in pieces."""

    matched: str | None  # the stop string that was found; what follows it is swallowed

    def push(self, text: str) -> str:
        """Take the next text; return what no stop string can claim any more."""
        ...

    def finish(self) -> str:
        """No more text follows; return what was held back."""
        ...


class TextService(Protocol):
    """Text to ids and back, for one model. One per API process, without state; may be called in worker threads.

    No method blocks for long on ordinary input; long texts are better encoded in a worker thread.
    """

    eos_token_ids: tuple[int, ...]  # ids that end a text
    has_chat_template: bool  # whether `render_chat` has a template to apply

    @property
    def template_variables(self) -> frozenset[str]:
        """Names that the chat template reads, so those that `template_arguments` can set."""
        ...

    @property
    def reads_tools(self) -> bool:
        """Whether the chat template shows a request's tools to the model."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`. Raises RequestError for text that is not Unicode."""
        ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of `ids`; ids without a token have none. For tokens that come in pieces see `detokenizer`."""
        ...

    def render_chat(self, messages: list[dict[str, Any]], **template_arguments: Any) -> str:
        """Apply the chat template in the one sandbox. Raises RequestError with the template's complaint."""
        ...

    def detokenizer(self, *, skip_special_tokens: bool = True) -> Detokenizer:
        """A fresh one for one branch, owned by the caller; its pieces joined are what `decode` gives for the whole."""
        ...

    def stop_finder(self, stops: Sequence[str], *, trim: bool = True) -> StopFinder:
        """A fresh one for one branch, owned by the caller. With `trim` the stop string itself is cut off too."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one token stands for, b"" for an id without a token. Not always whole characters."""
        ...


@dataclass(frozen=True, kw_only=True)
class TurnEnd:
    """The last event of a turn.

    reason: stop, length, tool_calls or abort; message: why it was aborted. matched: the stop string or token id that
    ended it. warnings: of parsers, as OpenAI's dialect shows them. Counts are in tokens; reasoning_tokens is None where
    reasoning is not told apart.
    """

    reason: str
    matched: int | str | None = None
    message: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int | None = None
    warnings: list[dict[str, Any]] = field(default_factory=list)


class Turn(Protocol):
    """One answer that was begun: checked and tokenized, not yet submitted."""

    rid: str  # as the engine knows it
    prompt_tokens: int  # of the prompt alone

    def events(
        self, *, stream: bool = True
    ) -> AsyncGenerator[list[TextDelta | ReasoningDelta | CallStarted | ArgumentsDelta | CallEnded | TurnEnd], None]:
        """Submit, and yield what each delivery added; the last event of the last list is a TurnEnd.

        With `stream` false everything comes in one list. Closing it early aborts the request in the engine.
        Raises RequestError where the engine refuses or gives up, EngineDead.
        """
        ...


class ChatService(Protocol):
    """Turns for dialects that are no OpenAI's: they translate a body, and write the events in their own words."""

    async def begin(self, body: dict[str, Any]) -> Turn:
        """`body` as of POST /v1/chat/completions (`n` 1, without `stream`), with `model` checked where it is there.

        Raises RequestError as that endpoint does, `param` naming OpenAI's field.
        """
        ...

    async def complete(self, body: dict[str, Any]) -> Turn:
        """`body` as of POST /v1/completions with one prompt: a turn of TextDelta alone, without template or parsers."""
        ...

    async def count(self, body: dict[str, Any]) -> int:
        """Prompt tokens that `begin` would have; what asks for an answer (`max_tokens`) is not looked at."""
        ...

    async def openai(self, request: Any, path: str, body: dict[str, Any]) -> Any:
        """The Response of OpenAI's own dialect to `body` at `path`, /v1/chat/completions or /v1/completions.

        For dialects that have OpenAI's bodies at another address. `request` is the one that is answered, its body read
        already. Works whether or not `--apis` serves OpenAI's dialect. Raises RequestError.
        """
        ...


@dataclass(frozen=True)
class Media:
    """What was fetched. type: the media type as its server named it, without parameters; not to be relied on."""

    data: bytes
    type: str


class HttpService(Protocol):
    """What an endpoint needs of HTTP beyond Starlette, with the server's own bounds and deadlines."""

    async def read_object(self, request: Any) -> dict[str, Any]:
        """The body as one JSON object, its top-level nulls dropped, never more than the server's limit in memory.

        A header that names the tenant (`x-tenant`) comes as the field `tenant`, which `ChatService.begin` takes. Raises
        RequestError 413 or 400; a client that has gone ends the endpoint.
        """
        ...

    async def fetch(self, url: str, *, param: str) -> Media:
        """What a request names by URL, as an image's address; `param` names the field in errors.

        Off unless the operator has let hosts in (`--allowed-media-domains`); never by another way than this one.
        Raises RequestError 400.
        """
        ...

    async def while_connected(self, request: Any, work: Any) -> Any:
        """Await `work`; a client that leaves before it is done cancels it."""
        ...

    def stream(
        self,
        chunks: AsyncGenerator[bytes, None],
        *,
        media_type: str = "text/event-stream",
        on_error: Callable[[Problem], bytes],
        end: bytes = b"",
        on_early_error: Callable[[Problem], Any] | None = None,
    ) -> Any:
        """A Starlette Response that sends each chunk as it comes, then `end`, and closes `chunks` in any case.

        The first chunk is awaited before the status line: what is raised until then becomes `on_early_error`'s Response
        (None: the route's `on_error`, else an error as OpenAI's), later the chunk that `on_error` writes, after which
        `end` follows. A reader that is too slow is cut off.
        """
        ...
