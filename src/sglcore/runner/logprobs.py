"""Logprobs of tokens, for the rows that asked."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sglcore.request import TokenLogprobs

BLOCK = 2**24  # logits looked at at once: 64 MiB of float32, so that a long prompt's logprobs need no copy of them all


def token_logprobs(
    logits: torch.Tensor, tokens: torch.Tensor, top: Sequence[int], ids: Sequence[tuple[int, ...]]
) -> list[TokenLogprobs]:
    """Log-softmax of `logits` float32 [n, vocab] at `tokens` int64 [n].

    With each come the `top[i]` likeliest tokens and those of `ids[i]`. Waits for the device.
    """
    step = max(1, BLOCK // logits.shape[-1])
    found: list[TokenLogprobs] = []
    for start in range(0, len(tokens), step):
        part = slice(start, start + step)
        found += _block(logits[part].log_softmax(-1), tokens[part], top[part], ids[part])
    return found


def _block(
    logprobs: torch.Tensor, tokens: torch.Tensor, top: Sequence[int], ids: Sequence[tuple[int, ...]]
) -> list[TokenLogprobs]:
    chosen = logprobs.gather(-1, tokens[:, None]).squeeze(-1).tolist()
    tops = _tops(logprobs, top)
    asked = _asked(logprobs, ids)
    return [TokenLogprobs(*one) for one in zip(chosen, tokens.tolist(), tops, asked, strict=True)]


def _tops(logprobs: torch.Tensor, top: Sequence[int]) -> list[list[tuple[float, int]]]:
    most = min(max(top, default=0), logprobs.shape[-1])
    if most <= 0:
        return [[] for _ in top]
    values, indices = (part.tolist() for part in logprobs.topk(most, dim=-1))
    return [list(zip(v[:k], i[:k], strict=True)) for v, i, k in zip(values, indices, top, strict=True)]


def _asked(logprobs: torch.Tensor, ids: Sequence[tuple[int, ...]]) -> list[list[tuple[float, int]]]:
    rows = [row for row, wanted in enumerate(ids) for _ in wanted]
    if not rows:
        return [[] for _ in ids]
    columns = [token for wanted in ids for token in wanted]
    values = iter(logprobs[torch.tensor(rows), torch.tensor(columns)].tolist())
    return [[(next(values), token) for token in wanted] for wanted in ids]
