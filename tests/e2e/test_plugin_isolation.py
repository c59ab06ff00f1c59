"""A server with a bad plugin in it: what goes on, what is counted, what ends in whose name; and one plan for all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from e2e.server import Server, failing, running
from parity.tiny import make
from sglcore.isolation import LIMIT

FLAGS = ("--skip-tokenizer-init", "--port", "0", "--max-total-tokens", "4096")

SPECS = """
from sglcore.contracts.attention import AttentionSpec
from sglcore.contracts.routes import RouteSpec

ATTENTION = AttentionSpec(name="crumbling", factory="crumbling_code:Crumbling", dtypes=("float32",), priority=-1)
ROUTES = RouteSpec(name="crumbling", factory="crumbling_code:routes")
BAD_ROUTES = RouteSpec(name="worse", factory="crumbling_code:bad_routes")
"""
CODE = """
from sglcore.builtin.torch_attention import TorchAttention
from sglcore.contracts.routes import RouteEntry


class Crumbling(TorchAttention):
    def attend(self, *arguments, **options):
        raise ArithmeticError("the kernel gave way")


def routes(context):
    async def fall(request):
        raise ValueError("oops")

    return [RouteEntry("/fall", fall, ("GET",), "public")]


def bad_routes(context):
    return ["/fall"]
"""
HOOKS = """
from sglcore import hookimpl
from sglcore.errors import RequestError


@hookimpl
def on_request_finished():
    raise ValueError("oops")


@hookimpl
def on_engine_stop():
    raise ValueError("oops")


@hookimpl
def admit_request(request):
    if request.token_ids()[0] == 13:
        raise ValueError("oops")
"""
POINTS = """[sglcore.attention.v1]
crumbling = crumbling_specs:ATTENTION
[sglcore.routes.v1]
crumbling = crumbling_specs:ROUTES
worse = crumbling_specs:BAD_ROUTES
[sglcore.hooks.v1]
crumbling = crumbling_hooks
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    return str(make("llama", tmp_path_factory.mktemp("models"))[0])


@pytest.fixture(scope="module")
def plugin(tmp_path_factory) -> Iterator[Path]:
    """A distribution on the path of every process that is started from here."""
    folder = tmp_path_factory.mktemp("plugins")
    info = folder / "dist_crumbling-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dist-crumbling\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(POINTS)
    for name, code in (("specs", SPECS), ("code", CODE), ("hooks", HOOKS)):
        (folder / f"crumbling_{name}.py").write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]))
        yield folder


@pytest.fixture(scope="module")
def server(plugin: Path, tiny: str) -> Iterator[Server]:
    with running(tiny, *FLAGS, "--apis", "openai,native,crumbling") as server:
        yield server
    log = "".join(server.log)
    assert "dist-crumbling failed in on_engine_stop (error 1): ValueError: oops" in log


def ask(server: Server, **fields) -> httpx.Response:
    body = {"input_ids": [5, 6, 7], "sampling_params": {"max_new_tokens": 2, "ignore_eos": True}, **fields}
    return httpx.post(f"{server.url}/generate", json=body, timeout=30)


def counted(server: Server) -> dict[str, int]:
    text = httpx.get(f"{server.url}/metrics").text
    found = re.findall(r'sglcore:plugin_errors_total\{hook="(.+?)",plugin="dist-crumbling"\} (\d+)', text)
    return {hook: int(count) for hook, count in found}


def test_an_observer_that_fails_costs_no_request_and_is_left_out_after_some(server):
    before = counted(server).get("on_request_finished", 0)
    for _ in range(LIMIT + 2):
        assert len(ask(server).json()["output_ids"]) == 2
    assert before <= LIMIT and counted(server)["on_request_finished"] == LIMIT
    log = "".join(server.log)
    assert log.count("dist-crumbling failed in on_request_finished 5 times in a row; it is left out there.") == 1


def test_a_gate_that_fails_refuses_that_request_and_names_the_plugin(server):
    answer = ask(server, input_ids=[13])
    assert answer.status_code == 500
    assert "The plugin dist-crumbling failed in admit_request" in answer.text and "oops" not in answer.text
    assert ask(server).status_code == 200
    assert counted(server)["admit_request"] == 1


def test_a_route_that_fails_is_a_500_then_a_503_and_the_others_answer(server):
    codes = [httpx.get(f"{server.url}/fall").status_code for _ in range(LIMIT + 1)]
    assert codes == [500] * LIMIT + [503]
    assert ask(server).status_code == 200 and counted(server)["GET /fall"] == LIMIT


def test_every_process_runs_the_same_plan(server, tmp_path):
    told = httpx.get(f"{server.url}/server_info").json()
    api, engine = told["plugin_plan"], told["internal_states"][0]["plugin_plan"]
    (logged,) = re.findall(r"Plugin plan (\w+): ", "".join(server.log))
    command = [sys.executable, "-m", "sglcore", "plugins", "lock", str(tmp_path / "lock"), "--apis", told["apis"]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"[0-9a-f]{16}", api)
    assert {api, engine, logged} == {re.search(r"plan (\w+)", done.stdout)[1]}


def test_ranks_run_the_plan_too(plugin, tiny):
    with running(tiny, *FLAGS, "--tp-size", "2", "--no-plugin", "dist-crumbling") as server:
        told = httpx.get(f"{server.url}/server_info").json()
        state = told["internal_states"][0]
        assert [told["plugin_plan"]] == [rank["plugin_plan"] for rank in state["ranks"]]
        assert state["plugin_plan"] == told["plugin_plan"]


def test_an_attention_backend_that_fails_ends_the_engine_in_its_name(plugin, tiny):
    code, log = failing(tiny, *FLAGS, "--attention-backend", "crumbling")
    assert code == 2
    last = [line for line in log.splitlines() if line.startswith("sglcore: ")]
    assert last == [
        "sglcore: The engine failed in dist-crumbling 1.2 (crumbling_code.py:8, attend): "
        "ArithmeticError: the kernel gave way"
    ]


def test_a_script_is_told_whose_code_it_was(plugin, tiny):
    code = f"""
from sglcore import LLM

with LLM({tiny!r}, skip_tokenizer_init=True, max_total_tokens=4096, attention_backend="crumbling") as llm:
    for _ in range(2):
        try:
            llm.generate([[1, 2]], {{"max_new_tokens": 2}})
        except Exception as error:
            print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all(
        line.startswith("EngineDead The engine failed in dist-crumbling 1.2 (crumbling_code.py:8, attend)")
        for line in lines
    )


def test_a_bad_list_of_routes_leaves_no_half_started_server(plugin, tiny):
    code, log = failing(tiny, *FLAGS, "--apis", "native,worse")
    assert code == 2 and "Traceback" not in log
    assert "routes 'worse' of dist-crumbling 1.2: its factory made a list with a str in it" in log
    assert "serves" not in log


def test_a_strangers_dialect_is_not_served_unless_it_is_named(plugin, tiny):
    code, log = failing(tiny, *FLAGS, "--apis", "native,nothing")
    assert code == 2 and "there is no dialect 'nothing'" in log and "There are: openai, native" in log
