"""No n-gram twice: the tokens that would complete one that came before are forbidden (Paulus et al., arXiv:1705.04304).

Looks at prompt and answer together, as Transformers' `no_repeat_ngram_size` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sglcore.builtin.processor_specs import NGramArguments, ngram_arguments
from sglcore.contracts.logits_processors import ProcessorContext


class Seen:
    """One branch: its last tokens, and what followed each run of n - 1 tokens, with the place of the run's start."""

    __slots__ = ("arguments", "followers", "length", "tail")

    def __init__(self, arguments: NGramArguments) -> None:
        self.arguments = arguments
        self.tail: tuple[int, ...] = ()  # the last n - 1 tokens, fewer at first
        self.followers: dict[tuple[int, ...], dict[int, int]] = {}
        self.length = 0

    def push(self, token: int) -> None:
        keep = self.arguments.ngram_size - 1
        if len(self.tail) == keep:
            self.followers.setdefault(self.tail, {})[token] = self.length - keep
        self.tail = (*self.tail, token)[-keep:] if keep else ()
        self.length += 1

    def forbidden(self) -> list[int]:
        found = self.followers.get(self.tail, {}) if len(self.tail) == self.arguments.ngram_size - 1 else {}
        window, allowed = self.arguments.window_size, self.arguments.whitelist_token_ids
        first = self.length - window if window else 0
        return [token for token, start in found.items() if start >= first and token not in allowed]


class NoRepeatNGram:
    """Implements `contracts.LogitsProcessor`."""

    def __init__(self, context: ProcessorContext) -> None:
        self.vocab_size = context.vocab_size

    def begin(self, arguments: Mapping[str, Any], prompt: np.ndarray, tokens: np.ndarray) -> Seen:
        """All tokens so far, taken in."""
        seen = Seen(ngram_arguments(arguments))
        for token in [*prompt.tolist(), *tokens.tolist()]:
            seen.push(token)
        return seen

    def apply(self, logits: torch.Tensor, rows: torch.Tensor, states: Sequence[Seen]) -> None:
        """-inf where a run would come again; a row that would be left no token keeps them all."""
        lists = [seen.forbidden() for seen in states]
        lists = [tokens if len(tokens) < self.vocab_size else [] for tokens in lists]
        counts = torch.tensor([len(tokens) for tokens in lists])
        total = int(counts.sum())
        if total:
            columns = torch.tensor([token for tokens in lists for token in tokens]).to(logits.device)
            where = torch.repeat_interleave(rows, counts.to(rows.device), output_size=total)
            logits[where, columns] = float("-inf")

    def accept(self, states: Sequence[Seen], tokens: np.ndarray) -> None:
        """One token each, in order."""
        for seen, token in zip(states, tokens.tolist(), strict=True):
            seen.push(token)
