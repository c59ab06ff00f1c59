"""What goes with what, written from the Specs: `python -m sglcore.cli.matrix_page > docs/reference/matrix.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from sglcore.contracts.attention import AttentionSpec
from sglcore.contracts.models import ModelSpec
from sglcore.contracts.platforms import PlatformSpec
from sglcore.contracts.spec import Spec
from sglcore.negotiation.constraints import Setting, Unmet, attention_unmet
from sglcore.negotiation.demand import DTYPES, Demand
from sglcore.plugins import IN_TREE, Plugins, canonical, discover
from sglcore.registry import spec_class

HEAD = """# What goes with what

Generated from the Specs of this repository's plugins; do not edit. To write it anew:
`python -m sglcore.cli.matrix_page > docs/reference/matrix.md`.

A Spec declares what a plugin can do; the start compares that with what the model, the platform and the flags ask for,
and takes what fits ([architecture](../architecture.md#negotiation)). `sglcore plugins explain MODEL` shows the outcome
for one model on one machine, probes of the hardware included, which no table can know.
"""
TITLES = {
    "attention": "Attention backends",
    "models": "Models",
    "quant": "Quantization methods",
    "platforms": "Platforms",
    "ops": "Ops",
}
NOT_SHOWN = {f.name for f in fields(Spec)} | {"compute_dtype", "chunked_prefill_size", "max_running_requests"}
# What an empty tuple says, where it does not say "any".
EMPTY = {"kv_dtypes": "compute type", "needs": "none", "methods": "none", "provides": "none"}
KV_DTYPES = ("bf16", "fp8_e4m3", "fp8_e5m2", "int8")
NEEDS = ("sliding_window", "soft_cap", "sinks", "mla")


def page() -> str:
    """The whole page, in Markdown."""
    plugins = discover()
    found = {family: in_tree(plugins, family) for family in TITLES}
    parts = [HEAD]
    for family, title in TITLES.items():
        parts += [f"## {title}\n", capabilities(family, found[family])]
    parts += ["## Attention backends and what is asked of them\n", ASKED, asked(found["attention"], found["platforms"])]
    parts += ["## Models and attention backends\n", PAIRS, pairs(found)]
    return "\n".join(parts)


ASKED = """In float32 unless the column says otherwise, on each platform that the backend runs on. A dash is followed by
the capability that is missing.
"""
PAIRS = """The compute types in which the pair works. A model asks for what its family may need; `config.json` may rule
some of it out, and `sglcore plugins explain` reads it.
"""


def in_tree(plugins: Plugins, family: str) -> list[Any]:
    """The Specs of this repository's distributions, by name."""
    registry = plugins.registry(family)
    return [registry.spec(name) for name in sorted(registry) if canonical(registry.entry(name).distribution) in IN_TREE]


def capabilities(family: str, specs: list[Any]) -> str:
    """A row a plugin, a column a declared capability."""
    if not specs:
        return "This repository has none yet.\n"
    names = [f.name for f in fields(spec_class(family)) if f.name not in NOT_SHOWN]
    return table(["name", *names], [[f"`{s.name}`", *(declared(n, getattr(s, n)) for n in names)] for s in specs])


def declared(name: str, value: Any) -> str:
    """A capability's value in words."""
    if isinstance(value, bool):
        return "yes" if value else "-"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or EMPTY.get(name, "any")
    return str(value)


def asked(backends: list[AttentionSpec], platforms: list[PlatformSpec]) -> str:
    """Attention x feature: "yes", or the first constraint that is not met."""
    columns: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
        **{f"`{dtype}`": ({"dtype": dtype}, {}, ()) for dtype in ("bfloat16", "float16")},
        **{f"`{need}`": ({}, {}, (need,)) for need in NEEDS},
        "`--page-size 16`": ({}, {"page_size": 16}, ()),
        **{f"`--kv-cache-dtype {kv}`": ({"kv_dtype": DTYPES.get(kv, kv)}, {}, ()) for kv in KV_DTYPES},
        "`--tp-size 2`": ({}, {"features": (("tensor_parallel", "--tp-size 2"),)}, ()),
    }
    rows = []
    for spec, platform in runs_on(backends, platforms):
        cells = []
        for settled, demand, needs in columns.values():
            dtype = settled.get("dtype", "float32")
            setting = Setting(Demand(**demand), platform.device, dtype, settled.get("kv_dtype", dtype))
            unmet = first(spec, setting, needs)
            cells.append(f"- `{unmet.constraint}`" if unmet else "yes")
        rows.append([f"`{spec.name}` on {platform.name}", *cells])
    return table(["backend", *columns], rows)


def pairs(found: dict[str, list[Any]]) -> str:
    """Model x attention backend: compute types, or the first constraint that is not met."""
    backends = list(runs_on(found["attention"], found["platforms"]))
    rows = []
    for model in found["models"]:
        cells = [pair(model, spec, platform) for spec, platform in backends]
        rows.append([f"`{model.name}`", *cells])
    return table(["model", *(f"`{spec.name}` on {platform.name}" for spec, platform in backends)], rows)


def pair(model: ModelSpec, spec: AttentionSpec, platform: PlatformSpec) -> str:
    """One cell of `pairs`."""
    works, reason = [], ""
    for dtype in platform.dtypes or ("float32", "bfloat16", "float16"):
        setting = Setting(Demand(), platform.device, dtype, dtype)
        unmet = first(spec, setting, model.needs)
        if unmet is None and (not model.dtypes or dtype in model.dtypes):
            works.append(dtype)
        else:
            reason = reason or (unmet.constraint if unmet else "dtypes")
    return ", ".join(works) or f"- `{reason}`"


def runs_on(
    backends: list[AttentionSpec], platforms: list[PlatformSpec]
) -> Iterable[tuple[AttentionSpec, PlatformSpec]]:
    """Each backend with each platform that it runs on."""
    return [(spec, p) for spec in backends for p in platforms if not spec.platforms or p.device in spec.platforms]


def first(spec: AttentionSpec, setting: Setting, needs: tuple[str, ...]) -> Unmet | None:
    """The first constraint not met, probes of this machine aside."""
    return next((unmet for unmet in attention_unmet(spec, setting, needs) if unmet.constraint != "probe"), None)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
