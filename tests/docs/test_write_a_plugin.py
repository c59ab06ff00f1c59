"""The plugin tutorial, executed: its files are taken out of the page, built, installed and used."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "write-a-plugin.md").read_text()
FILE = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.M | re.S)
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.M | re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, written out."""
    home = tmp_path_factory.mktemp("tutorial")
    for name, text in FILE.findall(PAGE):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return home / "sglcore-plugin-shortest"


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    """An environment in which the plugin is installed, without touching the one that runs the tests."""
    site = folder.parent / "site"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", site, folder]
    run([sys.executable, "-m", "pip", "--disable-pip-version-check", *install], folder.parent, dict(os.environ))
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def run(command: list[object], cwd: Path, env: dict[str, str]) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_page_shows_every_file_it_lists(folder: Path):
    tree = re.search(r"```text\n(sglcore-plugin-shortest/\n.*?)```", PAGE, re.S)
    assert tree is not None
    listed = set(re.findall(r"[\w./-]+\.(?:py|toml)", tree[1]))
    written = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert {Path(name).name for name in listed} == {Path(name).name for name in written}


def test_the_list_of_plugins_is_the_one_on_the_page(folder: Path, environment: dict[str, str]):
    listing = run([sys.executable, "-m", "sglcore", "plugins", "list", "--family", "policies"], folder, environment)
    shown = next(block for block in CONSOLE.findall(PAGE) if "plugins list" in block)
    promised = [line.split() for line in shown.splitlines() if line.startswith(("FAMILY", "policies"))]
    assert [line.split() for line in listing.splitlines()] == promised


def test_the_hook_module_is_light(folder: Path, environment: dict[str, str]):
    code = "import sys, sglcore_plugin_shortest.counting, sglcore_plugin_shortest.spec; print('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], folder, environment) == "False\n"


def test_the_tutorials_own_test_passes(folder: Path, environment: dict[str, str]):
    report = run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests"], folder, environment)
    assert re.search(r"^=+ 4 passed", report, re.M), report


def test_without_the_plugin_the_policy_is_refused_by_name(folder: Path, environment: dict[str, str]):
    code = "from sglcore.plugins import discover; discover('none').registry('policies').spec('shortest')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    why = "policies 'shortest' of sglcore-plugin-shortest 0.1.0 cannot be used: --plugins none leaves it"
    assert why in done.stderr


@pytest.mark.slow
def test_a_server_runs_with_it(folder: Path, environment: dict[str, str]):
    """The page's last command, on a free port: two answers, then the hook module's last word."""
    command = re.search(r"^\$ sglcore (serve .+)$", PAGE, re.M)
    assert command is not None
    words = [sys.executable, "-m", "sglcore", *command[1].split(), "--port", "0"]
    server = subprocess.Popen(words, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        url = ready_url(server.stderr)
        for tokens in (3, 4):
            run([sys.executable, "-c", ASK, url, tokens], folder, environment)
        server.send_signal(signal.SIGINT)
        assert "shortest: finished requests: 2 length" in server.stderr.read()
        assert server.wait(60) in (0, 130)
    finally:
        server.kill()
        server.wait()


def ready_url(stderr: IO[str]) -> str:
    """Where the server says it is. Fails with what it said instead."""
    said = []
    for line in stderr:
        said.append(line)
        if found := re.search(r" at (http://\S+) ", line):
            return found[1]
    raise AssertionError("".join(said))


ASK = """
import json, sys, urllib.request
body = {"text": "Once", "sampling_params": {"max_new_tokens": int(sys.argv[2]), "ignore_eos": True}}
kind = {"Content-Type": "application/json"}
request = urllib.request.Request(sys.argv[1] + "/generate", json.dumps(body).encode(), kind)
answer = json.load(urllib.request.urlopen(request, timeout=120))
assert answer["meta_info"]["completion_tokens"] == int(sys.argv[2]), answer
"""
