"""Token counts of an answer, in OpenAI's shape."""

from __future__ import annotations

from typing import Any

from sglcore.text.branch_text import Piece


class Usage:
    """Adds up the counts of all prompts and branches of one HTTP request as their pieces come.

    reasoning: tokens of thoughts; None where thoughts are not told apart. cached_details: tell where the cached tokens
    were as well.
    """

    def __init__(self, prompt_tokens: list[int], *, cached_details: bool = False) -> None:
        self.reasoning: int | None = None
        self._cached_details = cached_details
        self._prompts = list(prompt_tokens)
        self._completion: dict[tuple[int, int], int] = {}
        self._cached: dict[int, int] = {}

    def see(self, piece: Piece) -> None:
        """Take the counts of a branch so far."""
        self._completion[piece.prompt, piece.branch] = piece.completion_tokens
        self._prompts[piece.prompt] = piece.prompt_tokens or self._prompts[piece.prompt]  # more in a session
        if piece.branch == 0 or piece.prompt not in self._cached:
            self._cached[piece.prompt] = piece.cached_tokens

    @property
    def prompt(self) -> int:
        """Tokens of all prompts."""
        return sum(self._prompts)

    @property
    def completion(self) -> int:
        """Tokens of all answers so far."""
        return sum(self._completion.values())

    @property
    def cached(self) -> int:
        """Prompt tokens that the prefix cache served."""
        return sum(self._cached.values())

    def body(self) -> dict[str, Any]:
        """`usage`, with `reasoning_tokens` where thoughts are told apart."""
        body: dict[str, Any] = {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }
        if self._cached_details:  # there is one place: the pages of the device
            details = {"device": self.cached, "host": 0}
            body["prompt_tokens_details"]["cached_tokens_details"] = details
        if self.reasoning is not None:
            body["completion_tokens_details"] = {"reasoning_tokens": self.reasoning}
            body["reasoning_tokens"] = self.reasoning
        return body
