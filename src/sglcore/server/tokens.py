"""How single tokens are shown in logprobs: their text, their bytes, and the two OpenAI shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sglcore.contracts.services import TextService
from sglcore.native.answer import clamp
from sglcore.request import TokenLogprobs


class TokenNames:
    """Bytes and text of single tokens. Bytes that are no whole characters show as \\xNN."""

    def __init__(self, text: TextService | None) -> None:
        self._bytes_of: Callable[[int], bytes] = (lambda _: b"") if text is None else text.token_bytes
        self._names: dict[int, str] = {}

    def bytes_of(self, token_id: int) -> bytes:
        return self._bytes_of(token_id)

    def name(self, token_id: int) -> str:
        known = self._names.get(token_id)
        if known is None:
            known = self._names[token_id] = _shown(self._bytes_of(token_id))
        return known

    def chat(self, logprobs: Sequence[TokenLogprobs]) -> dict[str, Any]:
        """Chat's `logprobs`: {"content": [{token, logprob, bytes, top_logprobs}, ...]}."""
        return {
            "content": [
                self._entry(one.logprob, one.token_id)
                | {"top_logprobs": [self._entry(logprob, token) for logprob, token in one.top]}
                for one in logprobs
            ]
        }

    def _entry(self, logprob: float | None, token_id: int) -> dict[str, Any]:
        return {"token": self.name(token_id), "logprob": clamp(logprob), "bytes": list(self.bytes_of(token_id))}

    def completion(self, logprobs: Sequence[TokenLogprobs], top: int, offset: int) -> dict[str, Any]:
        """Completions' `logprobs`: parallel lists; `offset` is the first token's place in the text, in characters."""
        names = [self.name(one.token_id) for one in logprobs]
        offsets = []
        for name in names:
            offsets.append(offset)
            offset += len(name)
        return {
            "tokens": names,
            "token_logprobs": [clamp(one.logprob) for one in logprobs],
            "top_logprobs": [self._top(one) for one in logprobs] if top else None,
            "text_offset": offsets,
        }

    def _top(self, one: TokenLogprobs) -> dict[str, float | None] | None:
        if one.logprob is None:  # the first token of a prompt has no predecessor
            return None
        return {self.name(i): clamp(logprob) for logprob, i in one.top} | {self.name(one.token_id): clamp(one.logprob)}


def _shown(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in data)
