"""Two plugins written from the documentation alone, as strangers would: built, installed into a fresh virtual
environment beside a built sglcore, found, checked, served, and removed again. The tests run in this order.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from e2e import scripted_olmo2
from e2e.fresh import TIME_LIMIT, Environment, run, variables
from e2e.server import Server, running
from parity.reference import compare

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = Path(__file__).parent / "outside"
MODEL, PARSER = "sglcore-plugin-olmo2", "sglcore-plugin-pycall"
IN_TREE = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/*/pyproject.toml"))]
FLAGS = ("--port", "0", "--dtype", "float32", "--max-total-tokens", "4096")
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "array", "items": {"type": "integer"}}},
        },
    },
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of the two plugins, outside this repository."""
    folder = tmp_path_factory.mktemp("strangers")
    unwanted = shutil.ignore_patterns("__pycache__", ".*")
    for name in (MODEL, PARSER):
        shutil.copytree(OUTSIDE / name, folder / name, ignore=unwanted)
    return folder


@pytest.fixture(scope="module")
def wheels(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Distribution -> wheel, of sglcore, every plugin of this repository, and the two."""
    folder = tmp_path_factory.mktemp("wheels")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder]
    projects = [*IN_TREE, sources / MODEL, sources / PARSER]
    run([sys.executable, "-m", "pip", "wheel", *options, *projects], folder, variables())
    return {path.name.split("-")[0].replace("_", "-"): path for path in folder.glob("*.whl")}


@pytest.fixture(scope="module")
def fresh(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with sglcore and the two, and no plugin of this repository."""
    environment = Environment(tmp_path_factory.mktemp("fresh"))
    chosen = [wheels["sglcore"], wheels[MODEL], wheels[PARSER]]
    environment.pip("install", "--quiet", "--no-deps", "--no-index", *chosen)
    return environment


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """(folder, Transformers' model)."""
    folder = tmp_path_factory.mktemp("checkpoint")
    return str(folder), scripted_olmo2.make(folder)


@pytest.fixture(scope="module")
def server(fresh: Environment, checkpoint: tuple[str, Any]) -> Iterator[Server]:
    flags = ("--tool-call-parser", "pycall", "--model-impl", "sglcore", *FLAGS)
    where = {"python": fresh.python, "environment": fresh.variables}
    with running(checkpoint[0], *flags, **where) as started:
        yield started


def test_every_wheel_holds_all_files_of_its_package_and_its_entry_points(sources, wheels) -> None:
    projects = [*IN_TREE, sources / MODEL, sources / PARSER]
    assert len(wheels) == len(projects) >= 10
    for project in projects:
        told = tomllib.loads((project / "pyproject.toml").read_text())
        package = project / told["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"][0]
        files = {str(p.relative_to(package.parent)) for p in package.rglob("*") if p.is_file()}
        wanted = {name for name in files if "__pycache__" not in name}
        with zipfile.ZipFile(wheels[told["project"]["name"]]) as wheel:
            held = {name for name in wheel.namelist() if ".dist-info/" not in name}
            (points,) = (name for name in wheel.namelist() if name.endswith("/entry_points.txt"))
            written = ConfigParser(delimiters="=")
            written.optionxform = str  # type: ignore[assignment,method-assign]
            written.read_string(wheel.read(points).decode())
        assert held == wanted, f"{project.name}: {sorted(held ^ wanted)}"
        for group, entries in told["project"]["entry-points"].items():
            assert dict(written[group]) == entries, f"{project.name}: {group}"


def test_sglcores_wheel_holds_the_templates_of_new_plugins(wheels) -> None:
    with zipfile.ZipFile(wheels["sglcore"]) as wheel:
        templates = [name for name in wheel.namelist() if name.startswith("sglcore/cli/templates/")]
    assert len(templates) > 20


def test_nothing_of_this_repository_is_seen(fresh: Environment) -> None:
    found = json.loads(fresh.run("-c", "import sglcore, sys, json; print(json.dumps([sglcore.__file__, sys.path]))"))
    assert Path(found[0]).is_relative_to(fresh.folder)
    assert not [path for path in found[1] if Path(path).is_relative_to(ROOT)]
    listed = json.loads(fresh.sglcore("plugins", "list", "--json"))
    assert {entry["distribution"] for entry in listed} == {"sglcore", MODEL, PARSER}


def test_the_list_shows_both_as_usable(fresh: Environment) -> None:
    listed = {(e["family"], e["name"]): e for e in json.loads(fresh.sglcore("plugins", "list", "--json"))}
    model, parser = listed["models", "Olmo2ForCausalLM"], listed["tool_parsers", "pycall"]
    assert (model["distribution"], model["version"], model["state"]) == (MODEL, "0.3.1", "ok")
    assert (parser["distribution"], parser["version"], parser["state"]) == (PARSER, "1.2.0", "ok")


@pytest.mark.parametrize("name", [MODEL, PARSER])
def test_they_pass_verify_as_installed(fresh: Environment, name: str) -> None:
    told = fresh.sglcore("plugins", "verify", name)
    assert re.search(r"\b[1-9]\d* passed", told), told


def test_their_own_tests_pass_where_they_are_installed(fresh: Environment, sources: Path) -> None:
    options = ["-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", sources, "--import-mode", "importlib"]
    told = fresh.run("-m", "pytest", *options, sources / MODEL / "tests", sources / PARSER / "tests")
    found = re.search(r"(\d+) passed", told)
    assert found is not None and int(found[1]) > 50, told


def test_explain_chooses_the_model(fresh: Environment, checkpoint: tuple[str, Any]) -> None:
    told = fresh.sglcore("plugins", "explain", checkpoint[0], "--dtype", "float32")
    assert re.search(rf"^models +Olmo2ForCausalLM +{MODEL} 0\.3\.1 +chosen$", told, re.M), told


def test_generate_is_transformers_greedy(server: Server, checkpoint: tuple[str, Any]) -> None:
    words = scripted_olmo2.tokenizer()
    prompts = [words.encode(text) for text in ("abc", "Another text", "Some words to begin with")]
    body = {"input_ids": prompts, "sampling_params": {"temperature": 0, "max_new_tokens": 40, "ignore_eos": True}}
    answers = httpx.post(f"{server.url}/generate", json=body, timeout=TIME_LIMIT).raise_for_status().json()
    found = [answer["output_ids"] for answer in answers]
    assert [len(ids) for ids in found] == [40, 40, 40]
    parity = [compare(checkpoint[1], *pair, gap=1e-4) for pair in zip(prompts, found, strict=True)]
    assert [(p.positions, p.excused, p.wrong) for p in parity] == [(40, 0, 0)] * 3
    info = httpx.get(f"{server.url}/server_info", timeout=TIME_LIMIT).json()
    assert MODEL in json.dumps(info["decisions"])


def test_a_call_comes_through_the_openai_client(server: Server) -> None:
    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=TIME_LIMIT)
    ask: dict[str, Any] = {
        "model": "default",
        "messages": [{"role": "user", "content": "Weather?"}],
        "temperature": 0,
        "max_tokens": 40,
    }
    choice = client.chat.completions.create(**ask, tools=[WEATHER]).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "get_weather",
        {"city": "Bern", "days": [1, 2]},
    )
    deltas = [chunk.choices[0].delta for chunk in client.chat.completions.create(**ask, tools=[WEATHER], stream=True)]
    pieces = [piece.function for delta in deltas for piece in delta.tool_calls or []]
    assert [piece.name for piece in pieces if piece.name] == ["get_weather"]
    told = [piece.arguments for piece in pieces if piece.arguments]
    assert json.loads("".join(told)) == {"city": "Bern", "days": [1, 2]}
    assert len(told) > 3, "arguments come as they are written"
    plain = client.chat.completions.create(**ask).choices[0]
    assert (plain.message.content, plain.finish_reason) == ("".join(scripted_olmo2.CALL), "stop")


def test_they_are_gone_when_uninstalled(fresh: Environment, checkpoint: tuple[str, Any]) -> None:
    fresh.pip("uninstall", "--quiet", "--yes", MODEL, PARSER)
    listed = json.loads(fresh.sglcore("plugins", "list", "--json"))
    assert {entry["distribution"] for entry in listed} == {"sglcore"}
    refused = fresh.sglcore("serve", checkpoint[0], "--tool-call-parser", "pycall", *FLAGS, status=2)
    assert "pycall" in refused and "Traceback" not in refused, refused
    assert "sglcore plugins list" in refused, refused
    refused = fresh.sglcore("serve", checkpoint[0], "--model-impl", "sglcore", *FLAGS, status=2)
    assert "Olmo2ForCausalLM" in refused and "Traceback" not in refused, refused
