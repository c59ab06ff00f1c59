"""Services that plugins above the engine are handed: a way to the engine, and a way with text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
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

    def push(self, ids: Iterable[int]) -> str:
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
