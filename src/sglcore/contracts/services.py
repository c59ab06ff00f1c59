"""Services that plugins above the engine are handed: a way to the engine, and a way with text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sglcore.request import GenerateRequest, RequestOutput


class EngineClient(Protocol):
    """The API side's door to the engine. Safe to use from one event loop."""

    def generate(self, request: GenerateRequest) -> AsyncIterator[list[RequestOutput]]:
        """Submit; yields what each step delivered for this request until all branches finished.

        Leaving the iterator early (`aclose`, cancellation) aborts the request in the engine.
        Raises RequestError if the engine refuses it, EngineDead if the engine is gone.
        """
        ...

    async def abort(self, rid: str) -> int:
        """Abort the request with this id or id prefix ("" aborts all); returns how many it met."""
        ...

    async def call(self, name: str, **arguments: Any) -> Any:
        """A rare control call ("flush_cache", "info", "metrics"); RequestError if it cannot be done now."""
        ...

    @property
    def healthy(self) -> bool:
        """Whether the engine lives."""
        ...


class TextService(Protocol):
    """Text to ids and back, for one model. No method blocks for long on ordinary input."""

    eos_token_ids: tuple[int, ...]
    has_chat_template: bool

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str: ...

    def render_chat(self, messages: list[dict[str, Any]], **template_arguments: Any) -> str:
        """Apply the chat template in the one sandbox. Raises RequestError with the template's complaint."""
        ...
