"""`sglcore plugins trace`: every hook call is a line, in this process and in its children."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Run, clean_environment

HOOKS = """
import sglcore
from sglcore.options import Option


@sglcore.hookimpl
def add_options():
    return [Option("reply-tone", str, "plain", "How to sound.")]


@sglcore.hookimpl
def on_step(stats): ...
"""


@pytest.fixture
def hooked(distribution: Callable[..., Path]) -> Path:
    return distribution("dist-a", {"sglcore.hooks.v1": {"tone": "tone_hooks"}}, "tone_hooks", HOOKS)


def test_a_command_runs_with_its_own_flags_and_its_hook_calls_are_told(sglcore: Run, hooked: Path) -> None:
    done = sglcore("plugins", "trace", "serve", "--help", PYTHONPATH=str(hooked))
    assert done.returncode == 0
    assert "--reply-tone" in done.stdout and "Usage: sglcore serve" in done.stdout
    assert re.fullmatch(r"hook add_options of dist-a:tone: \d+\.\d{3} ms in process \d+\n", done.stderr)


def test_children_are_told_of_through_the_environment(hooked: Path) -> None:
    code = "from sglcore.plugins import discover; discover().hooks.on_step(stats={})"
    environment = clean_environment()
    environment["PYTHONPATH"] = f"{hooked}:{environment['PYTHONPATH']}"
    for variables, count in (({"SGLCORE_TRACE_HOOKS": "1"}, 1), ({}, 0)):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stderr.count("hook on_step of dist-a:tone: ") == count


def test_the_variable_is_no_unknown_flag(sglcore: Run) -> None:
    done = sglcore("serve", SGLCORE_TRACE_HOOKS="1")
    assert done.returncode == 2 and "No model was named." in done.stderr and "TRACE" not in done.stderr


def test_exit_status_and_complaints_are_the_commands(sglcore: Run) -> None:
    done = sglcore("plugins", "trace", "serve")
    assert done.returncode == 2 and "No model was named." in done.stderr and done.stderr.count("\n") == 1
    assert sglcore("plugins", "trace", "version").stdout == sglcore("version").stdout
    assert "No command was named." in sglcore("plugins", "trace").stderr
    assert "COMMAND..." in sglcore("plugins", "trace", "--help").stdout


def test_nothing_is_loaded_for_it_where_it_is_off(hooked: Path) -> None:
    code = "import sys; from sglcore.plugins import discover; discover().hooks.on_step(stats={}); "
    code += "print('sglcore.hook_trace' in sys.modules)"
    environment = clean_environment()
    environment["PYTHONPATH"] = f"{hooked}:{environment['PYTHONPATH']}"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n"
