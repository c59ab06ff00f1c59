"""Logprobs of tokens, for the rows that asked: computed on the device now, told when they have come to the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sglcore.request import TokenLogprobs

BLOCK = 2**24  # logits looked at at once: 64 MiB of float32, so that a long prompt's logprobs need no copy of them all


@dataclass(frozen=True, slots=True)
class Asked:
    """One call of `token_logprobs` under way: `tensors` are to be fetched, then `told`."""

    tensors: list[torch.Tensor]
    told: Callable[[list[np.ndarray]], list[TokenLogprobs]]


def token_logprobs(
    logits: torch.Tensor,
    tokens: torch.Tensor,
    top: Sequence[int],
    ids: Sequence[tuple[int, ...]],
    heat: torch.Tensor | None = None,
) -> Asked:
    """Log-softmax in float32 of `logits` [n, vocab] at `tokens` int64 [n]; of logits / heat [n] where that is given.

    With each come the `top[i]` likeliest tokens and those of `ids[i]`. Does not wait for the device.
    """
    step = max(1, BLOCK // logits.shape[-1])
    most = min(max(top, default=0), logits.shape[-1])
    tensors: list[torch.Tensor] = []
    for start in range(0, len(tokens), step):
        part = slice(start, start + step)
        scores = logits[part].float() if heat is None else logits[part].float() / heat[part, None]
        tensors += _block(scores.log_softmax(-1), tokens[part], most, ids[part])

    def told(arrays: list[np.ndarray]) -> list[TokenLogprobs]:
        found: list[TokenLogprobs] = []
        for block, start in enumerate(range(0, len(tokens), step)):
            part = slice(start, start + step)
            found += _told(arrays[5 * block : 5 * block + 5], top[part], ids[part])
        return found

    return Asked(tensors, told)


def _block(
    logprobs: torch.Tensor, tokens: torch.Tensor, most: int, ids: Sequence[tuple[int, ...]]
) -> list[torch.Tensor]:
    """Logprob and id of each token, the `most` likeliest, and those of `ids` in one row."""
    chosen = logprobs.gather(-1, tokens[:, None]).squeeze(-1)
    tops, indices = logprobs.topk(most, dim=-1)
    rows = torch.tensor([row for row, wanted in enumerate(ids) for _ in wanted], dtype=torch.int64)
    columns = torch.tensor([token for wanted in ids for token in wanted], dtype=torch.int64)
    asked = (
        logprobs[rows.to(logprobs.device, non_blocking=True), columns.to(logprobs.device, non_blocking=True)]
        if len(rows)
        else logprobs[:0, 0]
    )
    return [chosen, tokens, tops, indices, asked]


def _told(block: list[np.ndarray], top: Sequence[int], ids: Sequence[tuple[int, ...]]) -> list[TokenLogprobs]:
    chosen, tokens, tops, indices, asked = block
    values = iter(asked.tolist())
    likeliest = zip(tops.tolist(), indices.tolist(), top, strict=True)
    pairs = [list(zip(v[:k], i[:k], strict=True)) if k > 0 else [] for v, i, k in likeliest]
    each = zip(chosen.tolist(), tokens.tolist(), pairs, ids, strict=True)
    return [TokenLogprobs(value, token, best, _named(values, wanted)) for value, token, best, wanted in each]


def _named(values: Iterator[float], wanted: tuple[int, ...]) -> list[tuple[float, int]]:
    return [(next(values), token) for token in wanted]
