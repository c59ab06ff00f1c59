"""The model of the simulation, and what a request gets from it when nothing else exists.

A slot of "KV" holds what was written there: the token, mixed with the namespace. The next token is a hash of all slots
that the position sees, of seed, branch and position where the request samples, and of the tokens so far where it is
penalised. So a wrong page, a stale seat, a position skipped or computed from another's tokens, a lost seed or a
forgotten history each change what is answered.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from sglcore.request import GenerateRequest, SamplingParams

VOCAB = 50
GARBAGE = -7  # what a row that was not finite leaves in its slots


def slots(tokens: np.ndarray | list[int], namespace: str) -> np.ndarray:
    """int64 [tokens]: what these tokens leave in their slots."""
    return np.asarray(tokens, dtype=np.int64) + VOCAB * (zlib.crc32(namespace.encode()) % 1000)


def hashed(seen: Iterable[np.ndarray]) -> int:
    """Of what a position sees, by group."""
    value = 0
    for part in seen:
        value = zlib.crc32(part.tobytes(), value)
    return value


def visible(kv: np.ndarray, windows: tuple[int, ...]) -> int:
    """The hash of what the position behind `kv` sees."""
    return hashed(kv[-window:] if window else kv for window in windows)


def salt(sampling: SamplingParams, seed: int, branch: int, position: int, history: np.ndarray | list[int]) -> bytes:
    """What beside the KV decides about the token at `position`."""
    drawn = b"" if sampling.greedy else f"{seed}/{branch}/{position}".encode()
    return drawn + (np.asarray(history, dtype=np.int64).tobytes() if sampling.follows_tokens else b"")


def draw(seen: int, salt: bytes, forbidden: frozenset[int]) -> int:
    """The token."""
    token = zlib.crc32(salt, seen) % VOCAB
    while token in forbidden:
        token = (token + 1) % VOCAB
    return token


def logprob(seen: int, token: int) -> float:
    """What this model says of `token`."""
    return -float(zlib.crc32(b"%d" % token, seen) % 4096)


def stop_ids(sampling: SamplingParams, eos: tuple[int, ...]) -> frozenset[int]:
    """Ids that end the request."""
    return frozenset(sampling.stop_token_ids) | (frozenset() if sampling.ignore_eos else frozenset(eos))


@dataclass
class Answer:
    """Of one branch: its tokens, their logprobs, and how it ends."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    end: str = "length"


def alone(
    asked: GenerateRequest, prompt: list[int], branch: int, eos: tuple[int, ...], windows: tuple[int, ...]
) -> Answer:
    """What `asked` answers when it is the only one; `prompt` is its whole prompt, that of its session included."""
    sampling, answer = asked.sampling, Answer()
    stops = stop_ids(sampling, eos)
    tokens = list(prompt)
    seed = 0 if sampling.seed is None else sampling.seed
    for made in range(max(sampling.max_new_tokens, 1)):
        seen = visible(slots(tokens, asked.namespace), windows)
        forbidden = stops if made < sampling.min_new_tokens else frozenset()
        token = draw(seen, salt(sampling, seed, branch, len(tokens), tokens), forbidden)
        tokens.append(token)
        answer.tokens.append(token)
        answer.logprobs.append(logprob(seen, token))
        if token in stops:
            answer.end = "stop"
            break
    return answer


def told_of_prompt(
    asked: GenerateRequest, prompt: list[int], windows: tuple[int, ...]
) -> list[tuple[float | None, int]]:
    """(logprob, token) of the prompt's tokens from `logprob_start` on; the first token has none."""
    if not asked.return_logprob or asked.logprob_start < 0:
        return []
    kv = slots(prompt, asked.namespace)
    return [
        (logprob(visible(kv[:i], windows), prompt[i]) if i else None, prompt[i])
        for i in range(asked.logprob_start, len(prompt))
    ]
