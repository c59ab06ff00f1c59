"""SGLang's flags that sglcore does not have: refused by name, or accepted where they ask for what it does anyway."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from sglcore.cli.known_table import GROUPS
from sglcore.errors import ConfigError

# Spelling -> the flag's name.
SPELLINGS = {
    "pipeline-parallel-size": "pp-size",
    "dp": "dp-size",
    "data-parallel-size": "dp-size",
    "ep": "ep-size",
    "expert-parallel-size": "ep-size",
    "nccl-init-addr": "dist-init-addr",
    "speculative-draft-model": "speculative-draft-model-path",
}

ON = "true"
# Flag -> the one value that is accepted, because it asks for what sglcore does anyway; and why it is so.
NEUTRAL: dict[str, tuple[str, str]] = {
    "pp-size": ("1", "one device runs the model"),
    "dp-size": ("1", "there is one replica"),
    "ep-size": ("1", "one device runs the model"),
    "attn-cp-size": ("1", "one device runs the model"),
    "nnodes": ("1", "there is one node"),
    "node-rank": ("0", "there is one node"),
    "pp-async-batch-depth": ("0", "there is no pipeline"),
    "tokenizer-mode": ("auto", "the fast tokenizer is used"),
    "tokenizer-worker-num": ("1", "one process tokenizes"),
    "detokenizer-worker-num": ("1", "one process detokenizes"),
    "model-loader-extra-config": ("{}", "weight formats take no extra settings"),
    "sampling-backend": ("pytorch", "torch samples"),
    "grammar-backend": ("none", "there are no grammars"),
    "moe-a2a-backend": ("none", "one device runs the model"),
    "disaggregation-mode": ("null", "prefill and decode share an engine"),
    "num-continuous-decode-steps": ("1", "every step is scheduled"),
    "scheduler-recv-interval": ("1", "requests are received at every step"),
    "cpu-offload-gb": ("0", "weights are not offloaded"),
    "gc-warning-threshold-secs": ("0", "there is no such warning"),
    "fastapi-root-path": ("", "the server is at the root"),
    "enable-mixed-chunk": (ON, "prompt chunks and decoding share a step"),
    "enable-cache-report": (ON, "cached tokens are always reported"),
    "disable-outlines-disk-cache": (ON, "there is none"),
    "disable-custom-all-reduce": (ON, "there is none"),
}


def known_name(name: str) -> str | None:
    """The name of a known flag, in whatever spelling; None for a stranger."""
    dashed = name.removeprefix("--").replace("_", "-")
    dashed = SPELLINGS.get(dashed, dashed)
    return dashed if dashed in KNOWN else None


def spellings(name: str) -> tuple[str, ...]:
    """All long options that mean the known flag `name`."""
    return ("--" + name, *(f"--{other}" for other, target in SPELLINGS.items() if target == name))


def check_known(name: str, value: Any, source: str = "") -> bool:
    """True if `name` is known and `value` asks for nothing special, False if it is unknown.

    Raises ConfigError where a known flag asks for what sglcore does not do. A switch that is off asks for nothing.
    """
    known = known_name(name)
    if known is None:
        return False
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, bool) and not value:
        return True
    accepted = NEUTRAL.get(known)
    if accepted is None or text != accepted[0]:
        raise refusal(known, source)
    return True


def refusal(name: str, source: str = "") -> ConfigError:
    """What to tell about the known flag `name`."""
    where = f" (from {source})" if source else ""
    group = KNOWN[name]
    remedy = f"It belongs to {group.what}; leave it out."
    if name in NEUTRAL and NEUTRAL[name][0] not in (ON, ""):
        remedy = f"It belongs to {group.what}; leave it out, or give {NEUTRAL[name][0]}: {NEUTRAL[name][1]}."
    return ConfigError(
        f"`--{name}`{where} is a known SGLang flag, not yet supported by sglcore.",
        remedy=f"{remedy} {group.remedy}".strip(),
    )


def unknown_flag(name: str, options: Iterable[str], source: str = "") -> ConfigError:
    """What to tell about a flag that nobody knows, with the nearest of `options` and of SGLang's."""
    where = f" in {source}" if source else ""
    wanted = "--" + name.removeprefix("--").replace("_", "-")
    own = sorted(set(options))
    near = difflib.get_close_matches(wanted, own, n=3, cutoff=0.7)
    near += [
        f"{other} (not yet supported)"
        for other in difflib.get_close_matches(wanted, [f"--{k}" for k in KNOWN], n=2, cutoff=0.85)
        if other not in own
    ]
    remedy = f"Did you mean {' or '.join(near)}?" if near else "`sglcore serve --help` lists the flags."
    return ConfigError(f"Unknown flag {wanted}{where}.", remedy=remedy)


KNOWN = {name: group for group in GROUPS for name in group.flags}
