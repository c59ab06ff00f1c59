"""Prompts: text or token ids in, checked ids out, and how many tokens may follow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from sglcore.contracts.routes import RouteContext
from sglcore.contracts.services import TextService
from sglcore.errors import RequestError
from sglcore.native.limits import PromptLimits
from sglcore.server.schemas import MAX_PROMPTS

MAX_JOINED = 32 << 20  # characters, or tokens, of one request's prompts where each repeats a part of it
SLOW_RENDER = 0.05  # CPU seconds; a template that took longer is rendered in a thread from then on
LONG_TEXT = 20_000  # characters; longer ones are tokenized in a thread, so that other requests go on


class Prompts(PromptLimits):
    """What the dialects share about prompts of one model."""

    def __init__(self, context: RouteContext) -> None:
        super().__init__(context.model.context_length, context.model.vocab_size)
        self._text = context.text
        self._slow_template = False  # it has once held up all others
        template = getattr(context.text, "chat_template", None)
        self._knows_developer = template is None or "developer" in template

    @property
    def text(self) -> TextService:
        """The text service. Raises RequestError where the server runs without a tokenizer."""
        if self._text is None:
            raise RequestError(
                "This server runs without a tokenizer (--skip-tokenizer-init) and knows token ids only.",
                code="tokenizer_unavailable",
                remedy="Use /generate with `input_ids`.",
            )
        return self._text

    async def encode(self, text: str, param: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text. Raises RequestError naming `param` where it gives none."""
        (ids,) = await self.encode_all([text], add_special_tokens=add_special_tokens)
        return _some(ids, param)

    async def encode_all(self, texts: list[str], *, add_special_tokens: bool = True) -> list[list[int]]:
        """Token ids of each text, possibly none."""
        service = self.text

        def encode() -> list[list[int]]:
            return [service.encode(text, add_special_tokens=add_special_tokens) for text in texts]

        return encode() if sum(map(len, texts)) <= LONG_TEXT else await asyncio.to_thread(encode)

    async def count(self, texts: list[str]) -> int:
        """How many tokens some texts of an answer have."""
        return sum(map(len, await self.encode_all([text for text in texts if text], add_special_tokens=False)))

    async def ids_of(self, prompts: list[Any], param: str) -> list[list[int]]:
        """Checked ids of several prompts, each a text or a list of ids. Raises RequestError naming the bad one."""
        if not 1 <= len(prompts) <= MAX_PROMPTS:
            raise RequestError(f"`{param}` holds {len(prompts)} prompts; 1 to {MAX_PROMPTS} are taken.", param=param)
        encoded = iter(await self.encode_all([p for p in prompts if isinstance(p, str)]) if _has_text(prompts) else [])
        return [
            _some(next(encoded), f"{param}[{i}]") if isinstance(p, str) else self.check_ids(p, f"{param}[{i}]")
            for i, p in enumerate(prompts)
        ]

    async def render(self, messages: list[dict[str, Any]], arguments: dict[str, Any]) -> tuple[str, list[int]]:
        """Text and token ids of a chat, by the model's template (which writes the special tokens itself).

        A developer's message is a system message to templates that do not know the role.
        """
        if not self._knows_developer:
            messages = [m | {"role": "system"} if m.get("role") == "developer" else m for m in messages]
        parts = [part for message in messages for part in message.values()] + [arguments.get("tools", "")]
        size = sum(len(part if isinstance(part, str) else str(part)) for part in parts)
        if size <= LONG_TEXT and not self._slow_template:
            began = time.thread_time()
            try:
                prompt = self.text.render_chat(messages, **arguments)
            finally:
                self._slow_template = time.thread_time() - began > SLOW_RENDER
        else:
            prompt = await asyncio.to_thread(self.text.render_chat, messages, **arguments)
        return prompt, await self.encode(prompt, "messages", add_special_tokens=False)


def _has_text(prompts: list[Any]) -> bool:
    return any(isinstance(prompt, str) for prompt in prompts)


def _some(ids: list[int], param: str) -> list[int]:
    if not ids:
        raise RequestError(f"`{param}` is empty: it gives no tokens.", param=param, remedy="Send some text.")
    return ids


def check_joined(query: Sequence[Any], items: Sequence[Any], param: str) -> None:
    """Raises RequestError where `query`, put to each of `items`, becomes many times as much as was sent."""
    total = len(query) * len(items) + sum(map(len, items))
    if total > MAX_JOINED:
        raise RequestError(
            f"The query with each of {len(items)} `{param}` makes a length of {total}, more than {MAX_JOINED}.",
            param=param,
            remedy="Send fewer at a time.",
        )


def is_batch(prompt: list[Any]) -> bool:
    """Whether a list holds several prompts (texts or id lists) and not one prompt's ids."""
    return bool(prompt) and isinstance(prompt[0], str | list)
