"""`sglcore plugins verify`: what is written by `new` is fit, what is broken is told, and nothing is installed."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from sglcore.cli.plugins_new import write
from sglcore.cli.plugins_verify import Result, told
from sglcore.contracts.families import FAMILIES

from .conftest import Run

QUICK = ("policies", "tool_parsers", "hooks")


@pytest.mark.parametrize("kind", QUICK)
def test_a_new_plugin_is_fit(sglcore: Run, tmp_path: Path, kind: str) -> None:
    home = write(kind, "sea-pirate", tmp_path)
    before = {metadata.version("sglcore"), *(d.name for d in metadata.distributions())}
    done = sglcore("plugins", "verify", str(home))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "sglcore-plugin-sea-pirate 0.1.0" and lines[-1] == "It is fit."
    assert any(line.startswith("  ok     conformance: init: ") for line in lines)
    assert any(line.startswith("  ok     conformance: contract: 1 passed") for line in lines)
    assert kind == "hooks" or any(f"conformance: {kind} sea-pirate: " in line for line in lines)
    assert any(line.startswith("  ok     tests/test_sglcore_plugin_sea_pirate.py: ") for line in lines)
    assert {metadata.version("sglcore"), *(d.name for d in metadata.distributions())} == before
    assert not list(home.rglob("*.dist-info")) and not list(home.rglob(".pytest_cache"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if kind not in QUICK])
def test_a_new_plugin_of_every_other_family_is_fit(sglcore: Run, tmp_path: Path, kind: str) -> None:
    done = sglcore("plugins", "verify", str(write(kind, "sea-pirate", tmp_path)))
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_wrong_is_told_test_by_test(sglcore: Run, tmp_path: Path) -> None:
    home = write("policies", "pirate", tmp_path)
    code = home / "src" / "sglcore_plugin_pirate" / "policy.py"
    code.write_text(
        code.read_text().replace("order(self, waiting: Sequence[W], matched", "order(self, waiting: Sequence[W], m")
    )
    done = sglcore("plugins", "verify", str(home))
    assert done.returncode == 1
    assert "WRONG  conformance: contract: 1 failed" in done.stdout
    assert "PiratePolicy.order takes `m` where the contract says `matched`" in done.stdout
    assert "WRONG  tests/test_sglcore_plugin_pirate.py: 1 failed" in done.stdout
    assert done.stdout.splitlines()[-1] == "It is not fit." and "Traceback" not in done.stdout + done.stderr


def test_tests_that_cannot_even_be_read(sglcore: Run, tmp_path: Path) -> None:
    home = write("policies", "pirate", tmp_path)
    (home / "tests" / "test_more.py").write_text("import no_such_module\n")
    done = sglcore("plugins", "verify", str(home))
    assert done.returncode == 1
    assert "No module named 'no_such_module'" in done.stdout


def test_tests_that_do_not_end_are_ended(sglcore: Run, tmp_path: Path) -> None:
    home = write("hooks", "pirate", tmp_path)
    (home / "tests" / "test_more.py").write_text("import signal\n\nsignal.pause()\n")
    done = sglcore("plugins", "verify", str(home), "--timeout", "5")
    assert done.returncode == 1
    assert "the tests did not end within 5 s" in done.stdout


def test_what_this_core_cannot_use_is_refused_before_any_test(sglcore: Run, tmp_path: Path) -> None:
    home = write("policies", "pirate", tmp_path)
    file = home / "pyproject.toml"
    file.write_text(
        file.read_text().replace("policies.v1", "policies.v9").replace("runtime = []", 'runtime = ["x-y>=2"]')
    )
    done = sglcore("plugins", "verify", str(home))
    assert done.returncode == 1
    assert "speaks policies API 9" in done.stdout and "conformance" not in done.stdout
    file.write_text(file.read_text().replace("policies.v9", "policies.v1"))
    assert "needs x-y>=2" in sglcore("plugins", "verify", str(home)).stdout


def test_settings_of_the_plugins_pytest_are_its_own(sglcore: Run, tmp_path: Path) -> None:
    home = write("hooks", "pirate", tmp_path)
    (home / "pyproject.toml").open("a").write('\n[tool.pytest.ini_options]\npythonpath = ["helpers"]\n')
    (home / "helpers").mkdir()
    (home / "helpers" / "pirate_help.py").write_text("ANSWER = 42\n")
    (home / "tests" / "test_more.py").write_text(
        "from pirate_help import ANSWER\n\n\ndef test_it():\n    assert ANSWER\n"
    )
    done = sglcore("plugins", "verify", str(home))
    assert done.returncode == 0, done.stdout
    assert "ok     tests/test_more.py: 1 passed" in done.stdout


def test_an_installed_plugin_by_its_name(sglcore: Run, tmp_path: Path) -> None:
    """With its metadata on the path, and its source where an editable installation says that it is."""
    home = write("hooks", "pirate", tmp_path)
    site = tmp_path / "site" / "sglcore_plugin_pirate-0.1.0.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: sglcore-plugin-pirate\nVersion: 0.1.0\n")
    (site / "entry_points.txt").write_text("[sglcore.hooks.v1]\npirate = sglcore_plugin_pirate.hooks\n")
    path = f"{tmp_path / 'site'}:{home / 'src'}"
    done = sglcore("plugins", "verify", "sglcore-plugin-pirate", PYTHONPATH=path)
    assert done.returncode == 0, done.stdout
    assert "note   it has no tests of its own here" in done.stdout
    told = json.dumps({"url": f"file://{home}", "dir_info": {"editable": True}})
    (site / "direct_url.json").write_text(told)
    done = sglcore("plugins", "verify", "sglcore-plugin-pirate", PYTHONPATH=path)
    assert "ok     tests/test_sglcore_plugin_pirate.py: 1 passed" in done.stdout


@pytest.mark.parametrize("subject", ["no-such-thing", "numpy", "./no/such/folder"])
def test_bad_input_ends_with_status_2(sglcore: Run, subject: str) -> None:
    done = sglcore("plugins", "verify", subject)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == ""


def test_results_are_counted_by_group() -> None:
    results = [
        Result("../x/conformance.py::TestInit::test_a", "passed", ""),
        Result("::TestInit::test_b[1]", "skipped", "why"),
        Result("::Test models X::test_c", "failed", "so\n  what"),
        Result("tests/test_y.py::test_d", "passed", ""),
    ]
    assert told(results) == [
        "ok     conformance: init: 1 passed, 1 skipped",
        "WRONG  conformance: models x: 1 failed",
        "       test_c: so what",
        "ok     tests/test_y.py: 1 passed",
    ]
