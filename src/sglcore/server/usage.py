"""Token counts of an answer, in OpenAI's shape."""

from __future__ import annotations

from typing import Any

from sglcore.text.branch_text import Piece


class Usage:
    """Adds up the counts of all prompts and branches of one HTTP request as their pieces come."""

    def __init__(self, prompt_tokens: list[int]) -> None:
        self._prompts = list(prompt_tokens)
        self._completion: dict[tuple[int, int], int] = {}
        self._cached: dict[int, int] = {}

    def see(self, piece: Piece) -> None:
        self._completion[piece.prompt, piece.branch] = piece.completion_tokens
        self._prompts[piece.prompt] = piece.prompt_tokens or self._prompts[piece.prompt]  # more in a session
        if piece.branch == 0 or piece.prompt not in self._cached:
            self._cached[piece.prompt] = piece.cached_tokens

    def body(self) -> dict[str, Any]:
        completion, prompts = sum(self._completion.values()), sum(self._prompts)
        return {
            "prompt_tokens": prompts,
            "completion_tokens": completion,
            "total_tokens": prompts + completion,
            "prompt_tokens_details": {"cached_tokens": sum(self._cached.values())},
        }
