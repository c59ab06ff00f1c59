"""Grammars to try with what they allow and forbid, and a vocabulary in which a text has many tokenizations."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sglcore.contracts.grammars import GrammarContext, GrammarSource

WORDS = b'he|llo|hello|yes|ye|et|{"|":|"}|true|false|null|, |: |12|  |a"|ab|bc|abc|no'.split(b"|")
EOS, SPECIAL, NO_TEXT = 0, 1, 2
FIRST = 3  # of the single bytes
VOCABULARY: tuple[bytes, ...] = (b"</s>", b"<|special|>", b"", *(bytes([i]) for i in range(256)), *WORDS)
VOCAB_SIZE = len(VOCABULARY) + 6  # columns without a token, as padded models have them; no multiple of 32
CONTEXT = GrammarContext(
    vocabulary=VOCABULARY, vocab_size=VOCAB_SIZE, eos_ids=(EOS,), special_ids=frozenset({EOS, SPECIAL})
)


@dataclass(frozen=True)
class GrammarCase:
    """A grammar, texts that are whole sentences of it, texts that are not, and a judge for any other."""

    source: GrammarSource
    good: tuple[str, ...]
    bad: tuple[str, ...]
    valid: Callable[[str], bool]


def json_case(schema: Any, valid: Callable[[Any], bool], good: tuple[str, ...], bad: tuple[str, ...]) -> GrammarCase:
    """A JSON schema; `valid` judges the parsed value."""

    def judge(text: str) -> bool:
        try:
            return valid(json.loads(text))
        except ValueError:
            return False

    return GrammarCase(GrammarSource("json_schema", json.dumps(schema)), good, bad, judge)


def regex_case(pattern: str, good: tuple[str, ...], bad: tuple[str, ...]) -> GrammarCase:
    """A regular expression, which the whole text matches."""
    return GrammarCase(
        GrammarSource("regex", pattern), good, bad, lambda text: re.fullmatch(pattern, text, re.S) is not None
    )


OBJECT = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
CASES: dict[str, tuple[GrammarCase, ...]] = {
    "json_schema": (
        json_case(
            {"enum": ["yes", "yet", 7]}, ["yes", "yet", 7].__contains__, ('"yes"', '"yet"', "7"), ('"ya"', "8", '"ye"')
        ),
        json_case({"type": "boolean"}, lambda v: isinstance(v, bool), ("true", "false"), ("maybe", "tru", "1")),
        json_case(
            OBJECT,
            lambda v: isinstance(v, dict) and set(v) == {"a", "b"} and isinstance(v["b"], bool),
            ('{"a": 12, "b": true}', '{"a": -1, "b": false}'),
            ('{"a": "12", "b": true}', '{"a": 12}', "[]"),
        ),
    ),
    "regex": (
        regex_case("[ab]+c", ("abc", "aabbc", "bc"), ("c", "abd", "ab")),
        regex_case("(yes|no) [0-9]{2}", ("yes 12", "no 07"), ("yes 1", "maybe", "no 123")),
        regex_case("é+", ("é", "ééé"), ("e", "è")),
    ),
    "ebnf": (
        GrammarCase(
            GrammarSource("ebnf", 'root ::= "yes" | "no"\n'), ("yes", "no"), ("ye", "maybe"), ("yes", "no").__contains__
        ),
    ),
    "structural_tag": (),
}
# Texts that clients send; whatever a backend makes of them, it says so with a RequestError or compiles them.
NONSENSE = (
    "",
    " ",
    "{",
    "null",
    "7",
    '{"type": "no-such-type"}',
    '{"$ref": "#"}',
    '{"$ref": "http://nowhere/schema"}',
    '{"enum": []}',
    "[" * 20_000,
    "(" * 2_000,
    "((((a*)*)*)*)*b",
    "a{1000000000}",
    "[z-a]",
    "\\",
    "root ::= root",
    "\0",
    "x" * 100_000,
)


def bytewise(text: str) -> list[int]:
    """A token a byte."""
    return [FIRST + byte for byte in text.encode()]


def tokenizations(text: str) -> list[list[int]]:
    """A byte at a time, the longest words first, and two at random."""
    found = [bytewise(text), _tokens(text.encode(), None)]
    return [*found, *(_tokens(text.encode(), random.Random(seed)) for seed in (1, 2))]


def _tokens(rest: bytes, chance: random.Random | None) -> list[int]:
    ids = []
    while rest:
        fitting = [i for i in range(FIRST, len(VOCABULARY)) if rest.startswith(VOCABULARY[i])]
        pick = chance.choice(fitting) if chance else max(fitting, key=lambda i: len(VOCABULARY[i]))
        ids.append(pick)
        rest = rest[len(VOCABULARY[pick]) :]
    return ids


def text_of(tokens: list[int]) -> bytes:
    """The bytes of tokens, without the end."""
    return b"".join(VOCABULARY[token] for token in tokens if token != EOS)
