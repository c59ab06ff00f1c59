"""What SGLang's own request fields add to OpenAI's answers: token ids, meta_info, hidden states ..."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sglcore.native.answer import BranchAnswer
from sglcore.request import GenerateRequest
from sglcore.server.schemas import OpenAIFields
from sglcore.text.answer import hidden_shape
from sglcore.text.branch_text import Piece


class Extras:
    """Those of one HTTP request. Fields nobody asked for are left out."""

    def __init__(self, asked: OpenAIFields, asks: Sequence[GenerateRequest], weight_version: str) -> None:
        self._asked = asked
        self._asks = asks
        self._weight_version = weight_version
        self._started = time.perf_counter()
        self._branches: dict[tuple[int, int], BranchAnswer] = {}

    def see(self, piece: Piece) -> None:
        """Take a piece; each once, in order."""
        if self._asked.return_meta_info or self._asked.return_hidden_states:
            self._branches.setdefault((piece.prompt, piece.branch), self._fresh()).take(piece)

    def _fresh(self) -> BranchAnswer:
        return BranchAnswer(weight_version=self._weight_version)

    def tokens(self, piece: Piece) -> dict[str, Any]:
        """`token_ids` of a piece, for its choice."""
        return {"token_ids": piece.token_ids} if self._asked.return_token_ids else {}

    def prompt(self, index: int = 0) -> dict[str, Any]:
        """`prompt_token_ids` of a prompt."""
        ids = self._asks[index].token_ids().tolist() if self._asked.return_prompt_token_ids else None
        return {} if ids is None else {"prompt_token_ids": ids}

    def end(self, piece: Piece) -> dict[str, Any]:
        """`meta_info`, as /generate gives it, and `hidden_states`, of the last position, for the end of a choice."""
        fields: dict[str, Any] = {}
        if piece.finish is None or (piece.prompt, piece.branch) not in self._branches:
            return fields
        branch = self._branches[piece.prompt, piece.branch]
        if self._asked.return_meta_info:
            body = branch.body(self._asks[piece.prompt], self._started, with_text=False, name=None)
            fields["meta_info"] = body["meta_info"]
        if self._asked.return_hidden_states:
            states = hidden_shape(branch.hidden, piece.prompt_tokens or len(self._asks[piece.prompt].token_ids()))
            last = states[-1] if states else []
            fields["hidden_states"] = last[-1] if last and isinstance(last[0], list) else last
        return fields

    def chunk(self) -> dict[str, Any]:
        """What every body and chunk carries: `service_tier`, where one was asked for."""
        return {"service_tier": "default"} if self._asked.service_tier else {}

    def body(self) -> dict[str, Any]:
        """What a whole answer carries beside that."""
        return self.chunk() | {"metadata": {"weight_version": self._weight_version}}
