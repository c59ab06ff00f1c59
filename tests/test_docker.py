"""The Dockerfiles, read: no image is built here, but what they name is there, and they keep their promises."""

from __future__ import annotations

import json
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
KNOWN = {
    "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "USER", "VOLUME", "WORKDIR"
}  # fmt: skip


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, its words), continued lines joined, comments left out."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines())]


def named(path: Path, word: str) -> list[str]:
    return [rest for found, rest in instructions(path) if found == word]


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def dockerfile(request) -> Path:
    return request.param


def test_both_are_here():
    assert [path.name for path in FILES] == ["cpu.Dockerfile", "cuda.Dockerfile"]


def test_every_instruction_is_one(dockerfile):
    found = instructions(dockerfile)
    assert {word for word, _ in found} <= KNOWN
    assert all(rest for _, rest in found)


def test_every_path_that_is_copied_exists_and_is_in_the_context(dockerfile):
    ignore = Path(f"{dockerfile}.dockerignore").read_text().splitlines()
    kept = [line.removeprefix("!") for line in ignore if line.startswith("!")]
    copied = 0
    for rest in named(dockerfile, "COPY"):
        *sources, _ = [word for word in shlex.split(rest) if not word.startswith("--")]
        if "--from=build" in rest:
            continue
        for source in sources:
            assert (ROOT / source).exists(), f"{source} is copied and is not there"
            assert any(source == k or source.startswith(f"{k}/") for k in kept), f"{source} is not in the context"
            copied += 1
    assert copied >= 6
    assert "*" in ignore


def test_every_plugin_that_is_copied_is_installed(dockerfile):
    install = next(rest for rest in named(dockerfile, "RUN") if "./plugins/" in rest)
    (pattern,) = [word[2:].rstrip("/") for word in shlex.split(install) if word.startswith("./plugins/")]
    projects = [path.parent.relative_to(ROOT) for path in ROOT.glob("plugins/*/*/pyproject.toml")]
    assert projects and all(fnmatch(str(project), pattern) for project in projects)


def test_torch_is_pinned(dockerfile):
    (constraints,) = [r.split()[0] for r in named(dockerfile, "COPY") if "constraints" in r]
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / constraints).read_text(), re.M))
    assert {"torch", "transformers", "torchvision"} <= set(pins)
    for run in named(dockerfile, "RUN"):
        if "pip install" in run:
            assert "-c constraints.txt" in run


def test_stages_user_health_and_entry(dockerfile):
    first, last = named(dockerfile, "FROM")
    assert first.endswith(" AS build") and ":latest" not in first + last
    assert first.split()[0] == last.split()[0], "the interpreter must be the same in both stages"
    after = [word for word, _ in instructions(dockerfile)][::-1]
    assert named(dockerfile, "USER") == ["10001"] and after.index("USER") < after.index("RUN")
    (health,) = named(dockerfile, "HEALTHCHECK")
    command = json.loads(health.partition("CMD ")[2])
    compile(command[2], "healthcheck", "exec")
    assert "/livez" in command[2]
    assert json.loads(named(dockerfile, "ENTRYPOINT")[0]) == ["sglcore", "serve"]


def test_no_secrets(dockerfile):
    assert not re.search(r"(?i)(api_?key|token|password|secret)\s*=", dockerfile.read_text())
