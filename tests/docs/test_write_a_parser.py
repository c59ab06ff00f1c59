"""The parser tutorial, executed: its files are taken out of the page, built, installed, checked and served."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "write-a-parser.md").read_text()
FILE = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.M | re.S)
SERVE = """
import asyncio, httpx, sys
sys.path.insert(0, sys.argv[1])
from server.parsing import TEXT, WEATHER, config
from server.scripted import ScriptedEngine, says, server_context
from sglcore.plugins import discover
from sglcore.server import build_app
from sglcore.server.parsers import TemplateFacts, load_parsers

async def main():
    wrote = 'So. [TOOL_CALLS]get_weather[ARGS]{"city": "Bern"}'
    engine = ScriptedEngine(says(TEXT, wrote, end=TEXT.eos_token_ids[0]))
    context = server_context(engine, TEXT, model={"context_length": 4096})
    facts = TemplateFacts("[TOOL_CALLS]name[ARGS]{}", frozenset())
    context.parsers = load_parsers(config(tool_call_parser="auto"), discover("auto"), facts)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build_app(context)), base_url="http://test") as client:
        body = {"messages": [{"role": "user", "content": "hello"}], "tools": [WEATHER]}
        choice = (await client.post("/v1/chat/completions", json=body)).json()["choices"][0]
    print(choice["finish_reason"], choice["message"]["content"], choice["message"]["tool_calls"][0]["function"])

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, written out."""
    home = tmp_path_factory.mktemp("parser")
    for name, text in FILE.findall(PAGE):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return home / "sglcore-plugin-brackets"


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    """An environment in which the plugin is installed, without touching the one that runs the tests."""
    site = folder.parent / "site"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", site, folder]
    run([sys.executable, "-m", "pip", "--disable-pip-version-check", *install], folder.parent, dict(os.environ))
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def run(command: list[object], cwd: Path, env: dict[str, str]) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_page_shows_every_file_it_lists(folder: Path) -> None:
    tree = re.search(r"```text\n(sglcore-plugin-brackets/\n.*?)```", PAGE, re.S)
    assert tree is not None
    written = {p.name for p in folder.rglob("*") if p.is_file()}
    assert {Path(name).name for name in re.findall(r"[\w./-]+\.(?:py|toml)", tree[1])} == written


def test_it_passes_the_conformance_kit(folder: Path, environment: dict[str, str]) -> None:
    report = run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests"], folder, environment)
    found = re.search(r"^=+ (\d+) passed", report, re.M)
    assert found is not None and int(found[1]) >= 18, report


def test_it_is_listed(folder: Path, environment: dict[str, str]) -> None:
    listing = run([sys.executable, "-m", "sglcore", "plugins", "list", "--family", "tool_parsers"], folder, environment)
    assert re.search(r"^tool_parsers +brackets .*sglcore-plugin-brackets +0\.1\.0 +ok", listing, re.M), listing


def test_it_is_served(folder: Path, environment: dict[str, str]) -> None:
    said = run([sys.executable, "-c", SERVE, ROOT / "tests"], folder, environment)
    assert said == """tool_calls So.  {'name': 'get_weather', 'arguments': '{"city": "Bern"}'}\n"""
