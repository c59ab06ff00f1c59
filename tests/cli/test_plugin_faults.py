"""Each way in which a plugin can be wrong, as a user meets it: exit code 2, one paragraph, nothing half-started."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Run, clean_environment

Make = Callable[..., Path]
FORMAT = """
from sglcore.contracts.weights import WeightFormatSpec

SPEC = WeightFormatSpec(name="odd", factory="{factory}")
NONE = None


def nothing():
    return None


def fails():
    raise ValueError("oops")
"""
HOOKS = "from sglcore import hookimpl\n\n\n@hookimpl\ndef {name}():\n    raise ValueError('oops')\n"
TRAP = "import pathlib\n\npathlib.Path(__file__).with_suffix('.ran').touch()\nraise SystemExit('trap imported')\n"


def told(done: subprocess.CompletedProcess[str]) -> str:
    """The one paragraph of a refusal."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("sglcore: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def refused(sglcore: Run, path: Path, *flags: str) -> str:
    return told(sglcore("generate", str(path), "-p", "x", "--skip-tokenizer-init", *flags, PYTHONPATH=str(path)))


# -- asked for by name --


def test_import_error(sglcore: Run, distribution: Make) -> None:
    path = distribution("dist-a", {"sglcore.hooks.v1": {"h": "bad_hooks"}}, "bad_hooks", "import no_such_module_here\n")
    text = refused(sglcore, path, "--plugins", "auto,dist-a")
    assert "dist-a 1.2" in text and "No module named 'no_such_module_here'" in text and "--no-plugin dist-a" in text


def test_import_that_exits(sglcore: Run, distribution: Make) -> None:
    path = distribution("dist-a", {"sglcore.models.v1": {"M": "trap:SPEC"}}, "trap", TRAP)
    assert "SystemExit: trap imported" in refused(sglcore, path, "--plugins", "dist-a")


def test_wrong_api_version(sglcore: Run, distribution: Make) -> None:
    path = distribution("dist-a", {"sglcore.models.v7": {"M": "trap:SPEC"}}, "trap", TRAP)
    text = refused(sglcore, path, "--plugins", "dist-a")
    assert "'M' of dist-a 1.2 cannot be used: speaks models API 7, this core reads 1 to 1" in text
    assert "pip install --upgrade sglcore" in text and not (path / "trap.ran").exists()


def test_missing_requirement(sglcore: Run, distribution: Make) -> None:
    needs = ("msgspec", 'no-such-thing-here>=0.6; extra == "runtime"', 'other-missing; extra == "test"')
    path = distribution("dist-a", {"sglcore.models.v1": {"M": "trap:SPEC"}}, "trap", TRAP, needs)
    text = refused(sglcore, path, "--plugins", "dist-a")
    assert "it needs no-such-thing-here>=0.6, which is not installed" in text and "other-missing" not in text
    assert "pip install 'no-such-thing-here>=0.6'" in text and not (path / "trap.ran").exists()


def test_malformed_entry_point(sglcore: Run, distribution: Make) -> None:
    path = distribution("dist-a", {"sglcore.models.v1": {"M": "no spec here"}})
    text = refused(sglcore, path, "--plugins", "dist-a")
    assert "'no spec here' is not `module:SPEC`" in text and "dist_a-1.2.dist-info/entry_points.txt line 2" in text


def test_not_installed(sglcore: Run, tmp_path: Path) -> None:
    assert "--plugins names 'dist-z', which is not installed. pip install dist-z" in refused(
        sglcore, tmp_path, "--plugins", "dist-z"
    )


@pytest.mark.parametrize(
    ("factory", "problem"),
    [
        ("odd_format:nothing", "is of the wrong type: odd_format:nothing made a NoneType that has no `detects`"),
        ("odd_format:fails", "failed while it was built (odd_format:fails): ValueError: oops"),
        ("odd_format:NONE", "is a NoneType and cannot be called"),
        ("odd_format:missing", "cannot be loaded (odd_format:missing): AttributeError"),
    ],
)
def test_wrong_factory(sglcore: Run, distribution: Make, factory: str, problem: str) -> None:
    points = {"sglcore.weight_formats.v1": {"odd": "odd_format:SPEC"}}
    path = distribution("dist-a", points, "odd_format", FORMAT.format(factory=factory))
    text = refused(sglcore, path, "--load-format", "odd")
    assert problem in text and "dist-a 1.2" in text


def test_wrong_spec(sglcore: Run, distribution: Make) -> None:
    points = {"sglcore.policies.v1": {"odd": "odd_format:SPEC"}}
    path = distribution("dist-a", points, "odd_format", FORMAT.format(factory="a:b"))
    text = refused(sglcore, path, "--plugins", "auto,dist-a")
    assert "dist-a 1.2 registers policies 'odd', but odd_format:SPEC is a WeightFormatSpec, not a PolicySpec" in text


@pytest.mark.parametrize("name", ["add_options", "adjust_config"])
def test_exception_in_a_hook_of_the_start(sglcore: Run, distribution: Make, tmp_path: Path, name: str) -> None:
    points = {"sglcore.hooks.v1": {"h": "bad_hooks"}}
    path = distribution("dist-a", points, "bad_hooks", HOOKS.format(name=name))
    text = refused(sglcore, path)
    assert f"{name} of dist-a 1.2 failed: ValueError: oops" in text and "--no-plugin dist-a" in text


# -- clashes --


def test_name_clash(sglcore: Run, distribution: Make) -> None:
    for name in ("dist-a", "dist-b"):
        path = distribution(name, {"sglcore.weight_formats.v1": {"odd": "odd_format:SPEC"}})
    (path / "odd_format.py").write_text(FORMAT.format(factory="odd_format:nothing"))
    text = refused(sglcore, path, "--load-format", "odd")
    assert "Both dist-a 1.2 and dist-b 1.2 register weight_formats 'odd'" in text
    assert "--no-plugin dist-a or --no-plugin dist-b" in text
    assert "wrong type" in refused(sglcore, path, "--load-format", "odd", "--no-plugin", "dist-b")


# -- not asked for --


def test_a_broken_plugin_that_nobody_named_is_one_line_in_the_log_and_never_used(
    sglcore: Run, distribution: Make
) -> None:
    distribution("dist-a", {"sglcore.hooks.v1": {"h": "bad_hooks"}}, "bad_hooks", "import no_such_module_here\n")
    distribution("dist-b", {"sglcore.models.v7": {"M": "trap:SPEC"}}, "trap", TRAP)
    path = distribution("dist-c", {"sglcore.models.v1": {"M": "trap:SPEC"}}, requires=("no-such-thing-here",))
    done = sglcore("generate", str(path), "-p", "x", "--skip-tokenizer-init", PYTHONPATH=str(path))
    assert "is in none of the weight formats" in told(done)  # the start went on until the model, which is none
    for line in ("No module named 'no_such_module_here'", "speaks models API 7", "it needs no-such-thing-here"):
        assert len([one for one in done.stderr.splitlines() if line in one]) == 1, done.stderr
    assert not (path / "trap.ran").exists()


# -- the lock --


def locked(sglcore: Run, path: Path) -> Path:
    file = path / "plugins.lock"
    done = sglcore("plugins", "lock", str(file), PYTHONPATH=str(path))
    assert done.returncode == 0, done.stderr
    return file


def test_require_lock(sglcore: Run, distribution: Make) -> None:
    path = distribution("dist-a", {"sglcore.policies.v1": {"odd": "nowhere:SPEC"}})
    file = locked(sglcore, path)
    assert "weight formats" in refused(sglcore, path, "--require-lock", str(file))  # these plugins pass
    distribution("dist-b", {"sglcore.hooks.v1": {"h": "trap"}}, "trap", TRAP)
    text = refused(sglcore, path, "--require-lock", str(file))
    assert f"The plugins are not those of {file}: dist-b 1.2 is there too" in text
    assert not (path / "trap.ran").exists()  # refused before any of its code ran


def test_edited_lock(sglcore: Run, distribution: Make) -> None:
    path = distribution("dist-a", {"sglcore.policies.v1": {"odd": "nowhere:SPEC"}})
    file = locked(sglcore, path)
    content = json.loads(file.read_text())
    content["distributions"][0]["version"] = "9"
    file.write_text(json.dumps(content))
    assert f"{file} was edited: its digest does not fit" in refused(sglcore, path, "--require-lock", str(file))
    file.write_text("{")
    assert f"{file} is not a lock file" in refused(sglcore, path, "--require-lock", str(file))
    file.unlink()
    assert "cannot be read: No such file or directory" in refused(sglcore, path, "--require-lock", str(file))


# -- the listing is fast --


def test_listing_thirty_plugins_is_quick_and_imports_neither_torch_nor_transformers(distribution: Make) -> None:
    for i in range(30):
        points = {"sglcore.models.v1": {f"Made{i}ForCausalLM": "trap:SPEC"}, "sglcore.policies.v1": {f"p{i}": "trap:P"}}
        path = distribution(f"dist-{i}", points, requires=("sglcore", 'msgspec>=0.1; extra == "runtime"'))
    (path / "trap.py").write_text(TRAP)
    environment = clean_environment()
    environment["PYTHONPATH"] = f"{path}:{environment['PYTHONPATH']}"

    def seconds(*arguments: str) -> tuple[float, subprocess.CompletedProcess[str]]:
        """Processor time, which on an idle machine is what passes; whoever else uses this one does not count."""
        best, done = float("inf"), None
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(
                [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=True
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done is not None
        return best, done

    bare, _ = seconds("-c", "pass")
    listing, done = seconds("-m", "sglcore", "plugins", "list")
    assert len(re.findall(r"^models\s+Made\d+ForCausalLM .* ok$", done.stdout, re.M)) == 30
    print(f"listing {listing:.3f} s, bare Python {bare:.3f} s")
    assert listing - bare <= 0.35, f"{listing:.3f} s, bare Python {bare:.3f} s"
    probe = "import sys; from sglcore.cli.main import run; run(['plugins', 'list']); print(sorted(sys.modules))"
    loaded = seconds("-c", probe)[1].stdout
    assert "'sglcore.plugins'" in loaded and "'torch'" not in loaded and "'transformers'" not in loaded
