"""The script of a checkpoint, read from config.json; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard

from sglcore.errors import ConfigError

LONGEST_PATTERN = 32  # tokens; each is a head of the first layer
MOST_LINES = 256
MOST_TOKENS = 2**16  # of all answers together
POSITIONS = 2**16 - 1  # positions the model tells apart
REMEDY = "See the README of sglcore-plugin-scripted-model for what config.json holds."


@dataclass(frozen=True, slots=True)
class Line:
    """One answer. after: token ids that choose it, empty for the one that is said where nothing else was chosen.

    at_once: it begins right behind `after`, and not where the next answer begins. loop: it never ends.
    """

    after: tuple[int, ...]
    tokens: tuple[int, ...]
    at_once: bool
    loop: bool


@dataclass(frozen=True, slots=True)
class Script:
    """begin: token ids behind which answers begin. eos: what follows an answer, and everything else."""

    vocab: int
    eos: int
    begin: tuple[int, ...]
    lines: tuple[Line, ...]

    @classmethod
    def read(cls, config: dict[str, Any]) -> Script:
        """From config.json. Raises ConfigError naming the key."""
        vocab = config.get("vocab_size")
        if not (_whole(vocab) and 0 < vocab <= 2**20):
            raise _wrong("vocab_size", "a whole number from 1 to 1048576")
        eos = config.get("eos_token_id")
        if not (_whole(eos) and 0 <= eos < vocab):
            raise _wrong("eos_token_id", "one token id")
        begin = _ids(config.get("begin"), "begin", vocab, range(1, LONGEST_PATTERN + 1))
        listed = config.get("script")
        if not (isinstance(listed, list) and 0 < len(listed) <= MOST_LINES):
            raise _wrong("script", f"a list of 1 to {MOST_LINES} objects")
        lines = tuple(_line(entry, f"script[{index}]", vocab) for index, entry in enumerate(listed))
        if sum(len(line.tokens) for line in lines) > MOST_TOKENS:
            raise _wrong("script", f"at most {MOST_TOKENS} tokens")
        return cls(vocab, eos, begin, lines)

    @property
    def width(self) -> int:
        """Tokens of the longest pattern."""
        return max(len(self.begin), *(len(line.after) for line in self.lines))


def _line(entry: Any, where: str, vocab: int) -> Line:
    if not isinstance(entry, dict):
        raise _wrong(where, "an object")
    flags = {key: entry.get(key, False) for key in ("at_once", "loop")}
    for key, value in flags.items():
        if not isinstance(value, bool):
            raise _wrong(f"{where}.{key}", "true or false")
    after = _ids(entry.get("after", []), f"{where}.after", vocab, range(LONGEST_PATTERN + 1))
    if flags["at_once"] and not after:
        raise _wrong(f"{where}.after", "what an answer that begins at once begins behind")
    tokens = _ids(entry.get("tokens"), f"{where}.tokens", vocab, range(1, MOST_TOKENS + 1))
    return Line(after, tokens, **flags)


def _ids(value: Any, where: str, vocab: int, count: range) -> tuple[int, ...]:
    well = isinstance(value, list) and len(value) in count and all(_whole(v) and 0 <= v < vocab for v in value)
    if not well:
        raise _wrong(where, f"a list of {count.start} to {count.stop - 1} token ids below {vocab}")
    return tuple(value)


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong(where: str, what: str) -> ConfigError:
    return ConfigError(f"config.json: {where} must be {what}.", remedy=REMEDY)
