"""Greedy output of the demo model against Transformers, over the whole matrix of settings.

    python benchmarks/parity/run.py [cells]      writes benchmarks/parity/results.{json,md}

The reference is Transformers' Llama on the same dequantized float32 weights (the GGUF plugin's tests show those equal
to the gguf package's, bit for bit).
"""

from __future__ import annotations

import datetime
import itertools
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks" / "cpu")]
from run import as_directory  # noqa: E402

from parity.reference import Parity, compare  # noqa: E402

HERE = Path(__file__).resolve().parent
GAP = 1e-3
NEW_TOKENS = 24
AXES = {
    "radix cache": [True, False],
    "chunk": [16, 64, 512],
    "page": [1, 16],
    "requests": [1, 8, 32],
    "overlap": [True, False],
}


def main() -> None:
    """Run all cells (or the first few) on one set of loaded weights."""
    from sglcore.config import EngineConfig
    from sglcore.engine.build import load_model, open_model
    from sglcore.engine.model_files import resolve_model
    from sglcore.engine.phases import Phases
    from sglcore.plugins import discover

    cells = list(itertools.product(*AXES.values()))
    random.Random(0).shuffle(cells)  # so that the first few are a fair sample
    cells = cells[: int(sys.argv[1]) if len(sys.argv) > 1 else None]
    plugins = discover()
    config = EngineConfig(model_path="demo", context_length=1024)
    path = resolve_model("demo", config, plugins)
    loaded = load_model(open_model(config, path, plugins, Phases()), config, path, plugins, Phases())
    model = reference()
    text = tokenized(path)
    total, rows, begin = Parity(), [], time.perf_counter()
    for cell in cells:
        parity = run_cell(loaded, plugins, model, text, cell)
        rows.append({**dict(zip(AXES, cell, strict=True)), **vars(parity)})
        total += parity
        print(dict(zip(AXES, cell, strict=True)), parity, flush=True)
    result = {
        "date": datetime.date.today().isoformat(),
        "gap": GAP,
        "cells": len(cells),
        "seconds": time.perf_counter() - begin,
        "total": {**vars(total), "excused share": total.share},
        "rows": rows,
    }
    (HERE / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    summary = f"{len(cells)} settings, near-tie {GAP}: {total}."
    (HERE / "results.md").write_text(f"# Parity of the demo model\n\n{result['date']}: {summary}\n")
    print(summary)
    assert total.wrong == 0
    assert total.share <= 0.001


def reference() -> Any:
    """Transformers' model of the same weights, through an ordinary directory."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = as_directory(ROOT / "build" / "demo-float32")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def tokenized(path: Path) -> list[int]:
    """The text that prompts are cut from: this repository's own documentation."""
    from sglcore.engine.model_files import open_checkpoint
    from sglcore.plugins import discover
    from sglcore.text.service import Text

    service = Text(open_checkpoint(path, "auto", discover()).text_assets())
    return service.encode("\n".join(p.read_text() for p in sorted((ROOT / "docs").glob("*.md"))))


def run_cell(loaded: Any, plugins: Any, model: Any, text: list[int], cell: tuple) -> Parity:
    """All requests of one setting, the first half of them sharing a prefix."""
    from sglcore.config import EngineConfig
    from sglcore.engine.build import assemble
    from sglcore.engine.phases import Phases
    from sglcore.request import GenerateRequest, SamplingParams, pack_ids

    radix, chunk, page, count, overlap = cell
    config = EngineConfig(
        model_path="demo",
        context_length=1024,
        disable_radix_cache=not radix,
        chunked_prefill_size=chunk,
        page_size=page,
        max_running_requests=count,
        max_total_tokens=16384,
        disable_overlap_schedule=not overlap,
    )
    engine = assemble(loaded, config, plugins, Phases()).engine
    rng = random.Random(repr(cell))
    shared = text[:48]
    prompts = {}
    for i in range(count):
        start, length = rng.randrange(len(text) - 200), rng.choice([5, 30, 90])
        prompts[f"r{i}"] = (shared if i < count // 2 else []) + text[start : start + length]
    sampling = SamplingParams(max_new_tokens=NEW_TOKENS, temperature=0, ignore_eos=True)
    for rid, prompt in prompts.items():
        engine.add(GenerateRequest(rid=rid, input_ids=pack_ids(prompt), sampling=sampling))
    answers: dict[str, list[int]] = {rid: [] for rid in prompts}
    while engine.has_work:
        for out in engine.step():
            answers[out.rid] += out.token_ids
    engine.scheduler.ledger.check()
    total = Parity()
    for rid, prompt in prompts.items():
        total += compare(model, prompt, answers[rid], GAP)
    return total


if __name__ == "__main__":
    main()
