"""GrammarConformance: a grammar backend allows what its grammar allows, token by token, and nothing else."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest

from sglcore.contracts import grammars as contract
from sglcore.contracts.grammars import CompiledGrammar, GrammarBackend, GrammarSource, GrammarSpec, Matcher
from sglcore.contracts.spec import method_of
from sglcore.errors import RequestError
from sglcore.testing.grammar_cases import (
    CASES,
    CONTEXT,
    EOS,
    NONSENSE,
    VOCAB_SIZE,
    VOCABULARY,
    GrammarCase,
    bytewise,
    text_of,
    tokenizations,
)
from sglcore.testing.specs import SpecConformance

WORDS = -(-VOCAB_SIZE // 32)
WALKS, STEPS = 12, 40  # random sentences a grammar, tokens each


class GrammarConformance(SpecConformance):
    """Subclass with `spec`.

    cases: grammars to try beside the kit's own. patience: seconds that compiling anything may take.
    """

    spec: ClassVar[GrammarSpec]
    family = "grammars"
    cases: ClassVar[tuple[GrammarCase, ...]] = ()
    patience: ClassVar[float] = 20.0

    def make(self) -> GrammarBackend:
        """A fresh backend over the kit's vocabulary."""
        backend: GrammarBackend = self.spec.load()(CONTEXT)
        return backend

    def compiled(self) -> Iterator[tuple[GrammarCase, CompiledGrammar]]:
        """The cases of the declared kinds that the backend compiles; it may refuse what it does not support."""
        backend = self.make()
        known = [case for kind in self.spec.kinds for case in CASES.get(kind, ())]
        for case in (*self.cases, *known):
            try:
                yield case, backend.compile(case.source)
            except RequestError as error:
                if case in self.cases:
                    raise AssertionError(f"{told(case)}: refused: {error}") from error

    def test_every_declared_kind_compiles(self) -> None:
        """At least one grammar of each kind; structural tags only where the suite brings one."""
        compiled = {case.source.kind for case, _ in self.compiled()}
        missing = [kind for kind in self.spec.kinds if kind not in compiled and CASES.get(kind)]
        assert self.spec.kinds, "it declares no kind of grammar"
        assert not missing, f"it declares {missing[0]!r} but compiles none of the kit's grammars of that kind"

    def test_sentences_are_allowed(self) -> None:
        """However they are cut into tokens: each is allowed and accepted; at the end so is EOS, and all is finished."""
        for case, grammar in self.compiled():
            for text in case.good:
                for tokens in tokenizations(text):
                    matcher = grammar.matcher()
                    for at, token in enumerate(tokens):
                        rest = f"{told(case)}: {VOCABULARY[token]!r} after {text_of(tokens[:at])!r} of {text!r}"
                        assert token in allowed(matcher), f"{rest} is masked"
                        assert matcher.accept([token]) == 1, f"{rest} is allowed by the mask and then refused"
                    assert EOS in allowed(matcher), f"{told(case)}: EOS is masked after the whole of {text!r}"
                    assert matcher.accept([EOS]) == 1, f"{told(case)}: EOS is refused after the whole of {text!r}"
                    assert matcher.finished(), f"{told(case)}: not finished after {text!r} and EOS"

    def test_other_texts_are_not(self) -> None:
        """A token that leaves the language is masked and refused, or EOS is, where the text ends too early."""
        for case, grammar in self.compiled():
            for text in case.bad:
                matcher, tokens = grammar.matcher(), [*bytewise(text), EOS]
                passed = []
                for token in tokens:
                    if token not in allowed(matcher):
                        assert matcher.accept([token]) == 0, f"{told(case)}: it accepts what it masks in {text!r}"
                        break
                    assert matcher.accept([token]) == 1
                    passed.append(token)
                assert len(passed) < len(tokens), f"{told(case)}: {text!r} is let through, a wrong token passes"

    def test_mask_and_accept_agree(self) -> None:
        """On every token of the vocabulary, in every state on the way through a sentence."""
        for case, grammar in self.compiled():
            matcher = grammar.matcher()
            for token in [*bytewise(case.good[0]), None]:
                bits = allowed(matcher)
                for other in range(len(VOCABULARY)):
                    taken = matcher.fork().accept([other]) == 1
                    how = "masked but accepted" if taken else "allowed but refused"
                    assert taken == (other in bits), f"{told(case)}: {VOCABULARY[other]!r} is {how}"
                if token is not None:
                    matcher.accept([token])

    def test_whatever_is_allowed_is_a_sentence(self) -> None:
        """Random walks along the masks: some token always remains, special ones never, and what ends is valid."""
        chance = random.Random(3)
        for case, grammar in self.compiled():
            for _ in range(WALKS):
                matcher = grammar.matcher()
                tokens: list[int] = []
                while len(tokens) < STEPS and not matcher.finished():
                    bits = sorted(allowed(matcher))
                    assert bits, f"{told(case)}: nothing is allowed after {text_of(tokens)!r}"
                    tokens.append(EOS if EOS in bits and chance.random() < 0.5 else chance.choice(bits))
                    assert matcher.accept(tokens[-1:]) == 1
                if tokens[-1:] == [EOS]:
                    text = text_of(tokens).decode(errors="replace")
                    assert case.valid(text), f"{told(case)}: it lets {text!r} through, a wrong token passes"

    def test_a_mask_is_written_whole_and_alone(self) -> None:
        """Every word of its row, whatever stood there, and no other row."""
        for case, grammar in self.compiled():
            matcher = grammar.matcher()
            masks = [np.full((3, WORDS), start, np.int32) for start in (-1, 0, 0x5A5A5A5A)]
            wrote = [matcher.fill(mask, 1) for mask in masks]
            assert len(set(wrote)) == 1, f"{told(case)}: fill returns one thing, then another, in the same state"
            for mask, start in zip(masks, (-1, 0, 0x5A5A5A5A), strict=True):
                assert (mask[[0, 2]] == start).all(), f"{told(case)}: fill writes into rows that are not its own"
                same = (mask[1] == (masks[0][1] if wrote[0] else start)).all()
                assert same, f"{told(case)}: words of the row keep what stood there"

    def test_forks_rollbacks_and_rebuilding(self) -> None:
        """A fork goes its own way; what is taken back is as if it had never come; tokens alone make the state anew."""
        for case, grammar in self.compiled():
            rebuild = method_of(grammar, contract.CompiledGrammar, "rebuild")
            for text in case.good:
                tokens, matcher = bytewise(text), grammar.matcher()
                half = len(tokens) // 2
                matcher.accept(tokens[:half])
                before, twin = allowed(matcher), matcher.fork()
                twin.accept(tokens[half:])
                assert allowed(matcher) == before, f"{told(case)}: a fork and its origin share their state"
                back = min(self.spec.rollback, len(tokens) - half)
                if back:
                    matcher.accept(tokens[half : half + back])
                    matcher.rollback(back)
                    assert allowed(matcher) == before, f"{told(case)}: rollback of {back} tokens leaves another state"
                assert allowed(rebuild(tokens[:half])) == before, f"{told(case)}: rebuilt from its tokens it differs"

    def test_accept_stops_at_the_first_wrong_token(self) -> None:
        """It says how many it took, and stays there."""
        for case, grammar in self.compiled():
            tokens, matcher = bytewise(case.good[0]), grammar.matcher()
            wrong = next(t for t in range(len(VOCABULARY)) if t not in allowed(_after(grammar, tokens[:1])))
            assert matcher.accept([tokens[0], wrong, *tokens[1:]]) == 1, f"{told(case)}: accept goes past a wrong token"
            assert allowed(matcher) == allowed(_after(grammar, tokens[:1])), (
                f"{told(case)}: a refused token has an effect"
            )

    def test_nonsense_is_refused_in_time(self) -> None:
        """Any text of any declared kind: compiled or a RequestError, within `patience`."""
        backend = self.make()
        for kind in self.spec.kinds:
            for text in NONSENSE:
                started = time.monotonic()
                what = f"{kind} {text[:30]!r}"
                try:
                    backend.compile(GrammarSource(kind, text))  # type: ignore[arg-type]
                except RequestError:
                    pass
                except Exception as error:
                    raise AssertionError(f"{what} raises {type(error).__name__}, not RequestError: {error}") from error
                took = time.monotonic() - started
                assert took <= self.patience, f"{what} takes {took:.0f} s"

    def test_many_threads_compile_at_once(self) -> None:
        """The same grammars from four threads give the same first masks; each says how large it is."""
        cases = [case for case, _ in self.compiled()]
        backend = self.make()

        def first(case: GrammarCase) -> tuple[frozenset[int], Any]:
            grammar = backend.compile(case.source)
            return frozenset(allowed(grammar.matcher())), grammar.size

        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(first, cases * 4))
        assert all(type(size) is int and size >= 0 for _, size in results), "a compiled grammar's size is no number"
        for i, (bits, _) in enumerate(results):
            assert bits == results[i % len(cases)][0], f"{told(cases[i % len(cases)])}: threads disturb each other"

    def test_close_is_idempotent(self) -> None:
        """Twice is once."""
        backend = self.make()
        close = method_of(backend, contract.GrammarBackend, "close")
        close()
        close()


def allowed(matcher: Matcher) -> set[int]:
    """The tokens that the matcher allows now. Raises AssertionError for bits where no token is."""
    mask = np.full((1, WORDS), -1, np.int32)
    if not matcher.fill(mask, 0):
        if not (mask == -1).all():
            pytest.fail("fill returns False, but has written into the mask")
        return set(range(len(VOCABULARY))) - CONTEXT.special_ids
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    found = set(np.flatnonzero(bits).tolist())
    beyond = sorted(token for token in found if token >= VOCAB_SIZE)
    assert not beyond, f"bit {beyond[:1]} is set, beyond the vocabulary of {VOCAB_SIZE}"
    nothing = sorted(
        t for t in found if t >= len(VOCABULARY) or (not VOCABULARY[t]) or t in CONTEXT.special_ids - {EOS}
    )
    assert not nothing, f"token {nothing[:1]} is allowed, which is no text"
    return found


def told(case: GrammarCase) -> str:
    """A case, for messages."""
    return f"{case.source.kind} {case.source.text[:60]!r}"


def _after(grammar: CompiledGrammar, tokens: list[int]) -> Matcher:
    matcher = grammar.matcher()
    matcher.accept(tokens)
    return matcher
