"""Prompts of a length that is exact: texts that a tokenizer gives so many ids for, and ids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np

from sglcore.errors import ConfigError

STRANGE = 4096  # ids without a token in a row, after which no more are expected
ATTEMPTS = 6
POOL = 512
_WORD = re.compile(rb" ?[A-Za-z]+")


class Tokens(Protocol):
    """The part of a text service that is used here."""

    @property
    def special_tokens(self) -> frozenset[str]: ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str: ...

    def token_bytes(self, token_id: int) -> bytes: ...


class Wording:
    """Makes prompts for one tokenizer, drawn by `dice`. Lengths count the special tokens that encoding adds."""

    def __init__(self, tokens: Tokens, dice: np.random.Generator) -> None:
        self.tokens = tokens
        self.dice = dice
        self.added = len(tokens.encode(""))

    @cached_property
    def ordinary(self) -> np.ndarray:
        """Ids of all tokens that are not special."""
        special = {token.encode() for token in self.tokens.special_tokens}
        found, empty, i = [], 0, 0
        while empty < STRANGE:
            piece = self.tokens.token_bytes(i)
            empty = 0 if piece else empty + 1
            if piece and piece not in special:
                found.append(i)
            i += 1
        if not found:
            raise ConfigError("The tokenizer has no ordinary tokens.", remedy="Name another with --tokenizer.")
        return np.asarray(found)

    @cached_property
    def words(self) -> np.ndarray:
        """Ids of words that stay what they are when texts of them are encoded."""
        bytes_of = self.tokens.token_bytes
        spelled = [int(i) for i in self.ordinary if _WORD.fullmatch(bytes_of(int(i)))]
        spaced = [i for i in spelled if bytes_of(i).startswith(b" ")] or spelled
        tried = self.dice.permutation(spaced)[: 2 * POOL].tolist() if spaced else []
        stable = [i for i in tried if self._encode(self.tokens.decode([i] * 3)) == [i] * 3]
        return np.asarray(stable[:POOL] or self.ordinary[:1])

    def random_ids(self, count: int) -> list[int]:
        """Ids drawn from the whole vocabulary."""
        return self.dice.choice(self.ordinary, count).tolist()

    def word_ids(self, count: int) -> list[int]:
        """Ids of words."""
        return self.dice.choice(self.words, count).tolist()

    def text_of(self, ids: list[int], count: int) -> tuple[str, int]:
        """A text of exactly `count` ids, made of `ids` as far as they go, and its length.

        Most random ids do not survive being a text; what they turn into is cut or filled up. Where that does not
        settle, words take over.
        """
        wanted = max(count - self.added, 1)
        ids = self.filled(ids, wanted)
        for _ in range(ATTEMPTS):
            text = self.tokens.decode(ids)
            got = self._encode(text)
            if len(got) == wanted:
                return text, wanted + self.added
            ids = self.filled(got, wanted)
        return self.words_of(self.word_ids(wanted))

    def words_of(self, ids: list[int]) -> tuple[str, int]:
        """The text of words, and its length as encoded."""
        text = self.tokens.decode(ids)
        return text, len(self.tokens.encode(text))

    def filled(self, ids: list[int], count: int) -> list[int]:
        """The first `count` of `ids`, with words behind where there are fewer."""
        return [*ids[:count], *self.word_ids(max(count - len(ids), 0))]

    def _encode(self, text: str) -> list[int]:
        return self.tokens.encode(text, add_special_tokens=False)
