"""What a prompt may be for one model: which token ids, and how many tokens may follow."""

from __future__ import annotations

from typing import Any

from sglcore.errors import RequestError


class PromptLimits:
    """context: most tokens of prompt and answer together. vocab_size: token ids are below it."""

    def __init__(self, context: int, vocab_size: int) -> None:
        self.context = context
        self.vocab_size = vocab_size

    def check_ids(self, ids: Any, param: str) -> list[int]:
        """A non-empty list of ids inside the vocabulary. Raises RequestError naming the first that is not."""
        if not isinstance(ids, list) or not ids:
            raise RequestError(f"`{param}` must be a non-empty list of token ids.", param=param)
        if len(ids) > self.context:
            raise self._too_long(len(ids), param)  # before looking at each of what may be millions
        size = self.vocab_size
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
        room = self.context - len(ids)
        if room <= 0 and not (room == 0 and asked == 0):
            raise self._too_long(len(ids), prompt)
        if asked is None:
            return room if default is None else min(default, room)
        if asked > room:
            raise RequestError(
                f"`{prompt}` has {len(ids)} tokens and `{param}` is {asked}, together more than the context of "
                f"{self.context} tokens.",
                param=param,
                code="context_length_exceeded",
                remedy=f"Ask for at most {room}.",
            )
        return asked

    def _too_long(self, tokens: int, param: str) -> RequestError:
        return RequestError(
            f"`{param}` has {tokens} tokens; the context of {self.context} tokens leaves no room for an answer.",
            param=param,
            code="context_length_exceeded",
            remedy=f"Send at most {self.context - 1} tokens.",
        )
