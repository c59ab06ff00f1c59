"""`sglcore doctor`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run

SPEC = """
from sglcore.contracts.platforms import PlatformSpec
SPEC = PlatformSpec(name="toy", factory="toy:None", device="toy", doctor="toy:checks", probe="toy:problem")
def problem(): return {problem!r}
def checks(): {body}
"""
GOOD = 'return [{"check": "fan", "state": "ok", "found": "spins", "remedy": ""}]'
Make = Callable[..., Path]


def toy(make: Make, body: str = GOOD, problem: str | None = None) -> str:
    code = SPEC.format(body=body, problem=problem)
    return str(make("dist-toy", {"sglcore.platforms.v1": {"toy": "toy:SPEC"}}, "toy", code))


def checks_of(run: Run, *args: str, **variables: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = run("doctor", "--json", *args, **variables)
    found = json.loads(done.stdout)
    assert found["problems"] == sum(check["state"] == "problem" for check in found["checks"])
    return done.returncode, {check["check"]: check for check in found["checks"]}


def test_a_cpu_is_enough_where_no_gpu_is_asked_for(sglcore: Run) -> None:
    status, checks = checks_of(sglcore)
    assert status == 0
    assert checks["platform cpu"]["state"] == "ok"
    assert checks["attention torch"]["state"] == "ok"
    assert {"sglcore", "libraries"} <= set(checks)


def test_a_line_a_check_and_a_sum(sglcore: Run) -> None:
    *lines, last = sglcore("doctor").stdout.splitlines()
    assert all(re.match(r"(ok     |warning|problem)  ", line) for line in lines)
    assert last.startswith(f"{len(lines)} checks, ")


def test_a_platforms_own_checks(sglcore: Run, distribution: Make) -> None:
    path = toy(distribution)
    _, checks = checks_of(sglcore, "--gpu", PYTHONPATH=path)
    assert checks["platform toy"]["state"] == "ok"
    assert checks["fan"] == {"check": "fan", "state": "ok", "found": "spins", "remedy": ""}
    _, checks = checks_of(sglcore, PYTHONPATH=path)
    assert "fan" not in checks, "they take long and are for --gpu"


@pytest.mark.parametrize(
    "body, told",
    [
        ("import os; os.abort()", "ended with signal SIGABRT"),
        ("raise RuntimeError('out of luck')", "out of luck"),
        ("import time; time.sleep(60)", "did not end within 2 s"),
        ("return ['fan']", "gives 'fan', which is no check"),
        ("return [{'check': 'fan', 'state': 'fine', 'found': ''}]", "which is no check"),
    ],
)
def test_checks_that_fail_are_a_finding(sglcore: Run, distribution: Make, body: str, told: str) -> None:
    path = toy(distribution, body)
    done = sglcore("doctor", "--gpu", "--timeout", "2", PYTHONPATH=path)
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("problem  platform toy: ")]
    assert told in line


def test_a_gpu_that_is_asked_for_and_not_here_is_a_problem(sglcore: Run, distribution: Make) -> None:
    path = toy(distribution, problem="no toy is plugged in; plug one in")
    status, checks = checks_of(sglcore, PYTHONPATH=path)
    assert (status, checks["platform toy"]["state"]) == (0, "warning")
    status, checks = checks_of(sglcore, "--gpu", PYTHONPATH=path)
    assert status == 1
    assert checks["platform toy"]["found"] == "no toy is plugged in; plug one in"


def test_a_plugin_that_lacks_something_is_told_with_its_remedy(sglcore: Run, distribution: Make) -> None:
    code = SPEC.format(body=GOOD, problem=None)
    points = {"sglcore.platforms.v1": {"toy": "toy:SPEC"}}
    path = distribution("dist-toy", points, "toy", code, requires=('no-such-thing>=2; extra == "runtime"',))
    _, checks = checks_of(sglcore, "--gpu", PYTHONPATH=str(path))
    assert checks["platform toy"]["state"] == "warning"
    assert "no-such-thing>=2" in checks["platform toy"]["remedy"]
