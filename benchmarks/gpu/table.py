"""The table: what is measured, what it must reach, and how a run stands against it.

Bars are for one NVIDIA H200, bfloat16, dummy weights, greedy, token ids in and out, at full size. `best` is the better
of vLLM 0.26.0 and SGLang 0.5.16 on such a card, where it was measured. README.md says what each figure means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Figures = Mapping[str, Any]  # part -> what its JSON holds


@dataclass(frozen=True)
class Row:
    """A figure at `key` (dotted) of a part's JSON; `most`: no more than the bar, else no less. `sized`: only the full
    size can be held against the bar."""

    part: str
    key: str
    what: str
    unit: str
    bar: float | None
    most: bool = False
    best: float | None = None
    sized: bool = False


def _decode(part: str, name: str, bars: tuple[float, ...], bests: tuple[float, ...]) -> list[Row]:
    rows = zip((1, 16, 64, 256), bars, bests, strict=True)
    return [Row(part, f"decode_ms_{n}", f"{name} decode, {n} rows", "ms", bar, True, best) for n, bar, best in rows]


LLAMA, QWEN = "Llama-3.1-8B", "Qwen3-30B-A3B"
ROWS = [
    *_decode("llama", LLAMA, (4.4, 5.2, 7.25, 16.5), (4.76, 5.50, 7.54, 17.27)),
    Row("llama", "prefill_tok_s", f"{LLAMA} prefill, 4,096", "tok/s", 42000, best=41547),
    Row("llama", "offline_512x512x256", "offline 512 x (512 / 256)", "out tok/s", 11000, best=10666, sized=True),
    Row("llama", "offline_1000x128x512", "offline 1,000 x (128 / 512)", "out tok/s", 21400, best=20791, sized=True),
    Row("llama", "shared_tok_s", "shared prefixes, cache on", "out tok/s", 8600, best=8333, sized=True),
    Row("llama", "shared_hit", "  of the prompts cached", "", None, best=0.88),
    Row("http", "of_offline.512x512x256", "HTTP of offline, 512 x (512 / 256)", "x", 0.95),
    Row("http", "of_offline.1000x128x512", "HTTP of offline, 1,000 x (128 / 512)", "x", 0.95),
    Row("http", "of_offline.shared", "HTTP of offline, shared prefixes", "x", 0.95),
    *(
        Row("http", f"{case}.{name}.{q}", f"  {name[:4].upper()} {q}, {told}", "ms", None)
        for case, told in (("512x512x256", "512 x (512 / 256)"), ("1000x128x512", "1,000 x (128 / 512)"))
        for name in ("ttft_ms", "tpot_ms")
        for q in ("p50", "p99")
    ),
    Row("first_token", "warm.first_token_s", "start to first token, warm", "s", 15, True, 90),
    Row("first_token", "cold.first_token_s", "start to first token, cold", "s", 40, True, 90),
    Row("first_token", "warm.first_100_over_steady", "TPOT of first 100 of steady, warm", "x", 1.5, True),
    Row("first_token", "cold.first_100_over_steady", "TPOT of first 100 of steady, cold", "x", 1.5, True),
    Row("idle", "256.idle", "GPU idle, decode of 256 rows", "", 0.03, True),
    *_decode("qwen", QWEN, (3.6, 12.4, 18.2, 25.5), (4.08, 12.7, 18.6, 26.0)),
    Row("qwen", "prefill_tok_s", f"{QWEN} prefill, 4,096", "tok/s", 62000, best=61881),
    Row("fallback", "of_native", "fallback of native, 8B, 64 rows", "x", 0.65),
]


@dataclass(frozen=True)
class Line:
    """A row of a run. `value` is None where the part did not give it; `peers`: the same figure of other engines."""

    row: Row
    value: float | None
    verdict: str
    peers: Mapping[str, float | None]


def look(figures: Any, key: str) -> float | None:
    """The number at a dotted key, if there is one."""
    for name in key.split("."):
        if not isinstance(figures, Mapping) or name not in figures:
            return None
        figures = figures[name]
    return float(figures) if isinstance(figures, int | float) else None


def with_ratios(parts: Figures) -> dict[str, Any]:
    """The parts, with what needs two of them: a step of the fallback beside one of the native model."""
    found = dict(parts)
    native = look(parts, "llama.decode_ms_64")
    fallback = look(parts, "fallback.decode_ms_64")
    if native and fallback:
        found["fallback"] = {**found["fallback"], "of_native": round(native / fallback, 4)}
    return found


def lines(parts: Figures, size: str) -> list[Line]:
    """Every row of the parts that ran; peers' figures come from parts named `PEER:PART`."""
    found, told = [], with_ratios(parts)
    for row in ROWS:
        if row.part not in told:
            continue
        value = look(told[row.part], row.key)
        named = ((part.split(":")[0], figures) for part, figures in told.items() if part.endswith(f":{row.part}"))
        found.append(Line(row, value, verdict(row, value, size), {name: look(f, row.key) for name, f in named}))
    return found


def verdict(row: Row, value: float | None, size: str) -> str:
    """`ok` or `short`; `missing`; "" where nothing is asked, or not of this size."""
    if value is None:
        return "missing" if size == "full" else ""
    if row.bar is None or size == "trial" or (row.sized and size != "full"):
        return ""
    return "ok" if (value <= row.bar if row.most else value >= row.bar) else "short"


def text(found: list[Line]) -> str:
    """The table as it is printed."""
    peers = list(dict.fromkeys(name for line in found for name in line.peers))
    head = ["what", "measured", "bar", "best peer", *peers, ""]
    body = [head]
    for line in found:
        row = line.row
        sign = "<= " if row.most else ">= "
        bar = "" if row.bar is None else sign + number(row.bar)
        value = "-" if line.value is None else f"{number(line.value)} {row.unit}".rstrip()
        cells = [row.what, value, bar, number(row.best, "")]
        body.append([*cells, *(number(line.peers.get(name)) for name in peers), line.verdict])
    widths = [max(len(cells[i]) for cells in body) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        ).rstrip()
        for cells in body
    )


def number(value: float | None, absent: str = "-") -> str:
    """Short: thousands with commas, small ones with three digits behind the point."""
    if value is None:
        return absent
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}".rstrip("0").rstrip(".")
