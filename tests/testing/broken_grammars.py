"""A sound backend for languages of a few texts, and others that each break one promise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from sglcore.contracts.grammars import GrammarContext, GrammarSource
from sglcore.errors import RequestError


class Sound:
    """Compiles schemas that are enumerations or booleans."""

    def __init__(self, context: GrammarContext) -> None:
        self.context = context

    def compile(self, source: GrammarSource) -> Any:
        try:
            schema = json.loads(source.text) if len(source.text) < 10_000 else None
            values = [True, False] if schema == {"type": "boolean"} else schema["enum"]  # type: ignore[index]
            texts = frozenset(json.dumps(value).encode() for value in values)
        except (ValueError, TypeError, KeyError, RecursionError):
            raise RequestError("This schema is not supported.", param="response_format") from None
        if not texts:
            raise RequestError("No text fits this schema.", param="response_format")
        return self.grammar(texts)

    def grammar(self, texts: frozenset[bytes]) -> Any:
        return Grammar(self.context, texts, Matcher)


class Grammar:
    def __init__(self, context: GrammarContext, texts: frozenset[bytes], kind: Any) -> None:
        self.context, self.texts, self.kind = context, texts, kind
        self.size = sum(map(len, texts))

    def matcher(self) -> Any:
        return self.kind(self.context, self.texts, ())


class Matcher:
    def __init__(self, context: GrammarContext, texts: frozenset[bytes], tokens: tuple[int, ...]) -> None:
        self.context, self.texts, self.tokens = context, texts, list(tokens)

    @property
    def text(self) -> bytes:
        return b"".join(self.context.vocabulary[t] for t in self.tokens if t not in self.context.eos_ids)

    def finished(self) -> bool:
        return self.text in self.texts or bool(self.tokens and self.tokens[-1] in self.context.eos_ids)

    def takes(self, token: int) -> bool:
        if token in self.context.eos_ids:
            return self.text in self.texts
        if token in self.context.special_ids or self.tokens[-1:] == [self.context.eos_ids[0]]:
            return False
        new = self.context.vocabulary[token]
        return bool(new) and any(text.startswith(self.text + new) for text in self.texts)

    def allowed(self) -> list[int]:
        return [t for t in range(len(self.context.vocabulary)) if self.takes(t)]

    def accept(self, tokens: Sequence[int]) -> int:
        for count, token in enumerate(tokens):
            if not self.takes(token):
                return count
            self.tokens.append(token)
        return len(tokens)

    def fill(self, mask: np.ndarray, row: int) -> bool:
        bits = np.zeros(mask.shape[1] * 32, np.uint8)
        bits[self.allowed()] = 1
        mask[row] = np.packbits(bits, bitorder="little").view(np.int32)
        return True

    def rollback(self, count: int) -> None:
        del self.tokens[len(self.tokens) - count :]

    def fork(self) -> Any:
        return type(self)(self.context, self.texts, tuple(self.tokens))


class LetsOneThrough(Matcher):
    """A token that starts right passes whole."""

    def takes(self, token: int) -> bool:
        new = self.context.vocabulary[token]
        wrong = len(new) == 2 and any(text.startswith(self.text + new[:1]) for text in self.texts) and not self.tokens
        return super().takes(token) or wrong


class LetsTextsEndEarly(Matcher):
    def takes(self, token: int) -> bool:
        return super().takes(token) or (token in self.context.eos_ids and len(self.text) > 2)


class ForgetsTheEnd(Matcher):
    def takes(self, token: int) -> bool:
        return token not in self.context.eos_ids and super().takes(token)


class MasksLongTokens(Matcher):
    def takes(self, token: int) -> bool:
        return super().takes(token) and len(self.context.vocabulary[token]) < 3


class MasksMoreThanItRefuses(Matcher):
    def allowed(self) -> list[int]:
        return super().allowed()[:1]


class AllowsSpecialTokens(Matcher):
    def allowed(self) -> list[int]:
        return [*super().allowed(), 1]


class AllowsWhatIsNoToken(Matcher):
    def allowed(self) -> list[int]:
        return [*super().allowed(), len(self.context.vocabulary) + 7]


class EndsNowhere(Matcher):
    def allowed(self) -> list[int]:
        return [t for t in super().allowed() if t not in self.context.eos_ids]

    def finished(self) -> bool:
        return False


class WritesEverywhere(Matcher):
    def fill(self, mask: np.ndarray, row: int) -> bool:
        super().fill(mask, row)
        mask[:] = mask[row]
        return True


class AddsToTheMask(Matcher):
    def fill(self, mask: np.ndarray, row: int) -> bool:
        before = mask[row].copy()
        super().fill(mask, row)
        mask[row, 1:] |= before[1:]
        return True


class SharesItsForks(Matcher):
    def fork(self) -> Any:
        return self


class RollsBackOneLess(Matcher):
    def rollback(self, count: int) -> None:
        super().rollback(count - 1)


class GoesOnAfterARefusal(Matcher):
    def accept(self, tokens: Sequence[int]) -> int:
        return sum(super(GoesOnAfterARefusal, self).accept([token]) for token in tokens)


def backend(kind: Any) -> Any:
    """A factory of backends whose matchers are of this kind."""
    return type("Backend", (Sound,), {"grammar": lambda self, texts: Grammar(self.context, texts, kind)})


class RebuildsWrongly(Sound):
    def grammar(self, texts: frozenset[bytes]) -> Any:
        grammar: Any = super().grammar(texts)
        grammar.rebuild = lambda tokens: grammar.matcher()
        return grammar


class ShowsItsInside(Sound):
    def compile(self, source: GrammarSource) -> Any:
        return self.grammar(frozenset(json.dumps(v).encode() for v in json.loads(source.text)["enum"]))


class CompilesNothing(Sound):
    def compile(self, source: GrammarSource) -> Any:
        raise RequestError("Not today.")


class SharesWhatItCompiles(Sound):
    """One place for all threads and calls."""

    def grammar(self, texts: frozenset[bytes]) -> Any:
        grammar = self.__dict__.setdefault("kept", super().grammar(texts))
        grammar.size = None
        return grammar


class ClosesOnce(Sound):
    closed = False

    def close(self) -> None:
        assert not self.closed, "closed already"
        self.closed = True
