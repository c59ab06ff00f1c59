"""Runs drawn from a seed: the bulk of the suite. `python -m chaos.drive --seeds 0:1000` prints counts as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
import traceback
from collections import Counter
from typing import Any

from chaos.setup import ACTIONS, SETUP, Setup
from chaos.world import World

Action = tuple[str, dict[str, Any]]
STEPS = (30, 90)  # actions of a run, least and most
NAMES = tuple(ACTIONS)
WEIGHTS = tuple(weight for weight, _ in ACTIONS.values())


def drawn(seed: int) -> tuple[Setup, list[Action]]:
    """A setup and what is done to it."""
    dice = random.Random(seed)
    setup = Setup(**{name: dice.choice(values) for name, values in SETUP.items()})
    count = dice.randint(*STEPS)
    return setup, [
        (name, {argument: dice.choice(values) for argument, values in ACTIONS[name][1].items()})
        for name in dice.choices(NAMES, WEIGHTS, k=count)
    ]


async def play(setup: Setup, actions: list[Action]) -> Counter[str]:
    """One run; returns what happened in it. Raises what went wrong."""
    world = World(setup)
    try:
        await world.begin()
        for name, arguments in actions:
            world.counts["actions"] += 1
            await getattr(world, name)(**arguments)
        await world.finish()
    finally:
        await world.close()
    world.counts["runs"] += 1
    return world.counts


def fails(setup: Setup, actions: list[Action]) -> BaseException | None:
    """What a run ends with, None for well."""
    try:
        asyncio.run(play(setup, actions))
    except (Exception, asyncio.CancelledError) as error:
        return error
    return None


def shrunk(setup: Setup, actions: list[Action]) -> list[Action]:
    """Fewer actions that still fail: pieces are left out, ever smaller ones."""
    size = len(actions) // 2
    while size:
        start = 0
        while start < len(actions):
            fewer = actions[:start] + actions[start + size :]
            if fails(setup, fewer) is not None:
                actions = fewer
            else:
                start += size
        size //= 2
    return actions


def report(seed: int, setup: Setup, actions: list[Action]) -> str:
    """The smallest failing run found, in words that can be played again."""
    actions = shrunk(setup, actions)
    error = fails(setup, actions)
    lines = [f"seed {seed}, {setup}", *(f"    {name}{arguments}" for name, arguments in actions)]
    return "\n".join([*lines, *(traceback.format_exception(error) if error else ["(does not fail any more)"])])


def play_all(seeds: range, *, seconds: float = 1e9) -> tuple[Counter[str], int | None]:
    """All of them, or up to the first that fails, whose seed is returned too."""
    counts: Counter[str] = Counter()
    end = time.monotonic() + seconds
    for seed in seeds:
        if time.monotonic() > end:
            break
        try:
            counts += asyncio.run(play(*drawn(seed)))
        except (Exception, asyncio.CancelledError):
            return counts, seed
    return counts, None


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0:100", help="first:end")
    parser.add_argument("--brief", action="store_true", help="do not shrink a failing run")
    asked = parser.parse_args()
    first, _, end = asked.seeds.partition(":")
    start = time.perf_counter()
    counts, failed = play_all(range(int(first), int(end)))
    counts["milliseconds"] = round((time.perf_counter() - start) * 1e3)
    print(json.dumps(dict(sorted(counts.items()))))
    if failed is None:
        return 0
    error = fails(*drawn(failed))
    print(f"FAILED {failed}: {type(error).__name__}: {error}", file=sys.stderr)
    if not asked.brief:
        print(report(failed, *drawn(failed)), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
