"""What a run is made of: the geometry of the engine, the requests, and the actions with their weights and arguments.

Tables, so that the driver of the bulk and the machine of hypothesis draw from the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sglcore.builtin import policies
from sglcore.memory.eviction import ORDERS
from sglcore.scheduler import PriorityRules

CONTEXT = 40
POOL = 48  # tokens that the KV pool holds: little more than one request may need
POLICIES = (
    policies.FirstComeFirstServed,
    policies.LongestPrefixMatch,
    policies.DepthFirstByWeight,
    policies.LongestOutputFirst,
    policies.ByPriority,
    policies.RandomOrder,
)
RULES = (
    PriorityRules(),
    PriorityRules(),
    PriorityRules(enabled=True, threshold=2),
    PriorityRules(enabled=True, threshold=0, ageing=3),
)


@dataclass(frozen=True)
class Setup:
    """Of one run; index arguments point into the tables above."""

    overlap: bool
    page_size: int
    rows: int
    chunk: int
    cache: bool
    windows: tuple[int, ...]
    policy: int
    rules: int
    overtakes: int
    eos: tuple[int, ...]
    queued: int | None
    quota: float | None
    order: str


SETUP: dict[str, tuple[Any, ...]] = {
    "overlap": (True, True, False),
    "page_size": (1, 2, 4),
    "rows": (1, 2, 3, 4),
    "chunk": (1, 5, 64),
    "cache": (True, True, False),
    "windows": ((0,), (0,), (0, 6)),
    "policy": tuple(range(len(POLICIES))),
    "rules": tuple(range(len(RULES))),
    "overtakes": (1, 2, 4),
    "eos": ((), (3, 17)),
    "queued": (None, 8),
    "quota": (None, None, 0.5),
    "order": tuple(ORDERS),
}

# What a request may want; sampling's own fields under "sampling". "cuts": a stop string after so many tokens.
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "two": {"n": 2},
    "three": {"n": 3},
    "seeded": {"sampling": {"temperature": 1.0, "seed": 5}},
    "seeded three": {"n": 3, "sampling": {"temperature": 1.0, "seed": 6}},
    "unseeded": {"sampling": {"temperature": 1.0}},
    "penalized": {"sampling": {"temperature": 0, "frequency_penalty": 0.5}},
    "penalized two": {"n": 2, "sampling": {"temperature": 1.0, "seed": 7, "presence_penalty": 0.5}},
    "stop ids": {"sampling": {"temperature": 0, "stop_token_ids": (5, 9, 23, 31, 40, 44)}},
    "longer": {"sampling": {"temperature": 0, "min_new_tokens": 4, "stop_token_ids": (1, 2, 5, 9, 23, 31, 40)}},
    "no eos": {"sampling": {"temperature": 0, "ignore_eos": True}},
    "logprobs": {"return_logprob": True, "logprob_start": -1},
    "prompt logprobs": {"return_logprob": True, "logprob_start": 0},
    "late prompt logprobs": {"return_logprob": True, "logprob_start": 3, "n": 2},
    "stop string": {"cuts": {0: 3}},
    "stop strings": {"n": 3, "cuts": {0: 1, 2: 4}, "sampling": {"temperature": 1.0, "seed": 8}},
    "timeout": {"timeout": 4.0},
    "tenant": {"tenant": "t"},
}

PICK = range(64)
# name -> (weight, argument -> what it may be)
ACTIONS: dict[str, tuple[int, dict[str, Any]]] = {
    "arrive": (
        28,
        {
            "stem": range(3),
            "length": range(1, 24),
            "new": range(17),
            "shape": tuple(SHAPES),
            "salt": ("", "", "", "a"),
            "priority": (None, 0, 1, 5),
            "again": (False, False, True),
        },
    ),
    "turns": (40, {"count": range(1, 5)}),
    "continue_session": (5, {"pick": PICK, "new": range(1, 7), "replace": (False, False, True)}),
    "leave": (5, {"pick": PICK}),
    "abort": (5, {"pick": PICK}),
    "abort_all": (1, {}),
    "duplicate": (1, {"pick": PICK}),
    "retract": (5, {"pick": PICK}),
    "evict": (4, {"pages": range(1, 12)}),
    "flush": (2, {}),
    "pause": (3, {"mode": ("retract", "in_place", "abort")}),
    "go_on": (4, {}),
    "crash": (
        3,
        {
            "where": ("idle", "forward", "sample", "wait"),
            "after": range(3),
            "caught": (False, True),
            "late": (False, True),
            "down": range(3),
        },
    ),
    "poison": (1, {"pick": PICK, "after": range(6)}),
    "not_finite": (2, {"pick": range(4)}),
    "limits": (2, {"chunk": (1, 3, 16), "overtakes": (1, 3), "queued": (None, 3, 8)}),
    "pass_time": (2, {"seconds": (1, 3, 9)}),
    "lag": (2, {"turns": (0, 1, 3)}),
}
