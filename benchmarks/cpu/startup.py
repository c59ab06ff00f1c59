"""Time from starting `sglcore serve demo` to its first token over HTTP, by phase, and of the light commands.

python benchmarks/cpu/startup.py        writes benchmarks/cpu/startup.{json,md}
"""

from __future__ import annotations

import datetime
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request

from run import HERE, cpu_name

ROUNDS = 3


def main() -> None:
    """Best of a few rounds each, files in the page cache."""
    bare = best([sys.executable, "-c", "pass"])
    torch = best([sys.executable, "-c", "import torch"])
    commands = {
        "sglcore --help": best([sys.executable, "-m", "sglcore", "--help"]),
        "sglcore plugins list": best([sys.executable, "-m", "sglcore", "plugins", "list"]),
    }
    starts = [first_token() for _ in range(ROUNDS)]
    start = min(starts, key=lambda s: s["first token"])
    result = {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_name(),
        "bare python": bare,
        "import torch": torch,
        "commands": commands,
        "start": start,
        "all starts": [s["first token"] for s in starts],
    }
    (HERE / "startup.json").write_text(json.dumps(result, indent=1) + "\n")
    (HERE / "startup.md").write_text(report(result))
    print(report(result))


def best(command: list[str]) -> float:
    """Seconds of the fastest of some runs."""
    times = []
    for _ in range(2 * ROUNDS):
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times.append(time.perf_counter() - begin)
    return min(times)


def first_token() -> dict[str, float]:
    """Phases as the server tells them, and the moment the first streamed token arrived."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    begin = time.perf_counter()
    command = [sys.executable, "-m", "sglcore", "serve", "demo", "--port", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    phases: dict[str, float] = {}
    assert server.stderr is not None
    for line in server.stderr:
        found = re.match(r"\s+(\w[\w ]+?)\s+([\d.]+) s$", line)
        if found:
            phases[found[1]] = float(found[2])
        if " serves " in line:
            break
    phases["ready"] = time.perf_counter() - begin
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 1}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        while b'"content":"' not in (line := response.readline()) or b'"content":""' in line:
            pass
        phases["first token"] = time.perf_counter() - begin
    server.terminate()
    server.wait()
    return phases


def report(result: dict) -> str:
    """The figures in Markdown."""
    torch, bare, start = result["import torch"], result["bare python"], result["start"]
    lines = ["# Starting", "", f"{result['cpu']}, {result['date']}; best of {ROUNDS}, files in the page cache.", ""]
    lines += ["| what | s |", "|---|---|", f"| `python -c pass` | {bare:.2f} |"]
    lines += [f"| `{name}` | {t:.2f} ({t - bare:+.2f}) |" for name, t in result["commands"].items()]
    lines += [f"| `python -c 'import torch'` | {torch:.2f} |"]
    lines += [f"| {name} | {t:.2f} |" for name, t in start.items() if name != "first token"]
    ratio = start["first token"] / torch
    lines += [
        f"| `sglcore serve demo` to the first token | {start['first token']:.2f} ({ratio:.2f}x import torch) |",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
