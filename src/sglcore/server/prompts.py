"""Prompts: text or token ids in, checked ids out, and how many tokens may follow."""

from __future__ import annotations

import asyncio
from typing import Any

from sglcore.contracts.routes import ModelInfo, RouteContext
from sglcore.contracts.services import TextService
from sglcore.errors import RequestError
from sglcore.server.schemas import MAX_PROMPTS

LONG_TEXT = 20_000  # characters; longer ones are tokenized in a thread, so that other requests go on


class Prompts:
    """What the dialects share about prompts of one model."""

    def __init__(self, context: RouteContext) -> None:
        self._text = context.text
        self._model: ModelInfo = context.model

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
        """Text and token ids of a chat, by the model's template (which writes the special tokens itself)."""
        parts = [part for message in messages for part in message.values()] + [arguments.get("tools", "")]
        size = sum(len(part if isinstance(part, str) else str(part)) for part in parts)
        if size <= LONG_TEXT:
            prompt = self.text.render_chat(messages, **arguments)
        else:
            prompt = await asyncio.to_thread(self.text.render_chat, messages, **arguments)
        return prompt, await self.encode(prompt, "messages", add_special_tokens=False)

    def check_ids(self, ids: Any, param: str) -> list[int]:
        """A non-empty list of ids inside the vocabulary. Raises RequestError naming the first that is not."""
        if not isinstance(ids, list) or not ids:
            raise RequestError(f"`{param}` must be a non-empty list of token ids.", param=param)
        if len(ids) > self._model.context_length:
            raise self._too_long(len(ids), param)  # before looking at each of what may be millions
        size = self._model.vocab_size
        for position, i in enumerate(ids):
            if type(i) is not int or not 0 <= i < size:
                raise RequestError(
                    f"`{param}[{position}]` is {str(i)[:40]}; token ids go from 0 to {size - 1}.", param=param
                )
        return ids

    def fit(self, ids: list[int], asked: int | None, *, default: int | None, prompt: str, param: str) -> int:
        """Tokens that may be generated after `ids`: as asked, else `default`, else all that fit.

        `prompt` and `param` name the fields in errors. Raises RequestError where the context is too short.
        """
        context = self._model.context_length
        room = context - len(ids)
        if room <= 0 and not (room == 0 and asked == 0):
            raise self._too_long(len(ids), prompt)
        if asked is None:
            return room if default is None else min(default, room)
        if asked > room:
            raise RequestError(
                f"`{prompt}` has {len(ids)} tokens and `{param}` is {asked}, together more than the context of "
                f"{context} tokens.",
                param=param,
                code="context_length_exceeded",
                remedy=f"Ask for at most {room}.",
            )
        return asked

    def _too_long(self, tokens: int, param: str) -> RequestError:
        context = self._model.context_length
        return RequestError(
            f"`{param}` has {tokens} tokens; the context of {context} tokens leaves no room for an answer.",
            param=param,
            code="context_length_exceeded",
            remedy=f"Send at most {context - 1} tokens.",
        )


def _has_text(prompts: list[Any]) -> bool:
    return any(isinstance(prompt, str) for prompt in prompts)


def _some(ids: list[int], param: str) -> list[int]:
    if not ids:
        raise RequestError(f"`{param}` is empty: it gives no tokens.", param=param, remedy="Send some text.")
    return ids


def is_batch(prompt: list[Any]) -> bool:
    """Whether a list holds several prompts (texts or id lists) and not one prompt's ids."""
    return bool(prompt) and isinstance(prompt[0], str | list)
