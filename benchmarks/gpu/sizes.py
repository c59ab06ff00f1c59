"""How much each measurement asks for: the whole table, a quick look, or a trial of the scripts with a tiny model."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """Lengths are in tokens. `cases`: name -> (requests, tokens of a prompt, tokens of an answer)."""

    batches: tuple[int, ...] = (1, 16, 64, 256)
    rounds: int = 2
    context: int = 1024
    slope: tuple[int, int] = (16, 144)
    prefills: int = 32
    prefill: int = 4096
    cases: dict[str, tuple[int, int, int]] = field(
        default_factory=lambda: {"512x512x256": (512, 512, 256), "1000x128x512": (1000, 128, 512)}
    )
    groups: int = 64
    each: int = 16
    prefix: int = 2048
    own: int = 128
    shared_new: int = 256
    rest: float = 4.0
    early: tuple[int, int, int, int] = (100, 16, 128, 64)  # requests, at a time, tokens of a prompt, of an answer


SIZES = {
    "full": Sizes(),
    "quick": Sizes(
        batches=(1, 64),
        rounds=1,
        prefills=8,
        cases={"512x512x256": (128, 512, 256), "1000x128x512": (250, 128, 512)},
        groups=16,
    ),
    "trial": Sizes(
        batches=(1, 2),
        rounds=1,
        context=24,
        slope=(2, 6),
        prefills=2,
        prefill=64,
        cases={"512x512x256": (4, 16, 8), "1000x128x512": (6, 8, 8)},
        groups=2,
        each=3,
        prefix=48,
        own=8,
        shared_new=4,
        rest=0.0,
        early=(6, 2, 16, 4),
    ),
}


class Prompts:
    """Random token ids, the same ones for the same sequence of questions."""

    def __init__(self, vocab: int) -> None:
        self.vocab = vocab
        self._dice = random.Random(0)

    def one(self, length: int) -> list[int]:
        return [self._dice.randrange(10, self.vocab - 10) for _ in range(length)]

    def some(self, count: int, length: int) -> list[list[int]]:
        return [self.one(length) for _ in range(count)]

    def shared(self, sizes: Sizes) -> list[list[int]]:
        """Groups with one prefix each, shuffled."""
        found = []
        for _ in range(sizes.groups):
            prefix = self.one(sizes.prefix)
            found += [prefix + self.one(sizes.own) for _ in range(sizes.each)]
        self._dice.shuffle(found)
        return found


def flags_of(pairs: Iterable[str]) -> dict[str, Any]:
    """NAME=VALUE words as keywords; a value that is JSON is read as such. Raises ValueError for a word without `=`."""
    flags: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign:
            raise ValueError(f"{pair!r} is not NAME=VALUE")
        try:
            flags[name.replace("-", "_")] = json.loads(value)
        except json.JSONDecodeError:
            flags[name.replace("-", "_")] = value
    return flags


def common_arguments(parser: argparse.ArgumentParser) -> None:
    """What every script of the table takes: --size, --layers and engine flags."""
    parser.add_argument("--size", choices=SIZES, default="full", help="how much is asked; bars are for `full`")
    parser.add_argument("--layers", type=int, help="of the model, for a quick trial")
    parser.add_argument("flags", nargs="*", help="NAME=VALUE engine flags, such as attention_backend=triton")
