"""`sglcore plugins doctor`: each fault class by its own message, and plugins that hang, die or print."""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sglcore.cli.plugins_examine import examine
from sglcore.cli.plugins_process import run_child
from sglcore.installed import installed
from sglcore.plugins import select as select_plugins

from .conftest import Run

POLICY = """
from sglcore.contracts.policies import PolicySpec

SPEC = PolicySpec(name="{name}", factory="{module}:{factory}", probe="{probe}")
NONE = None


class Policy:
    def order(self, waiting, matched):
        return waiting


class Wrong:
    def order(self, waiting):
        return waiting


class Asks(Policy):
    def __init__(self, context):
        pass


class Nothing:
    pass


def probe():
    return "there is no such chip"


def raising():
    raise ValueError("oops")
"""
HOOK = "from sglcore import hookimpl\n\n\n@hookimpl\ndef {what}: ...\n"


def policy(**words: str) -> str:
    return POLICY.format_map({"name": "same", "module": "{module}", "factory": "Policy", "probe": "", **words})


# distribution -> (family, code of its module, what is told)
FAULTS: dict[str, tuple[str, str, str]] = {
    "import-error": ("policies", "import no_such_thing\n", "ModuleNotFoundError: No module named 'no_such_thing'"),
    "syntax-error": ("policies", "def (\n", "fails: SyntaxError"),
    "exits": ("policies", "raise SystemExit('bye')\n", "fails: SystemExit: bye"),
    "no-spec": ("policies", "OTHER = 1\n", "has no 'SPEC'"),
    "wrong-type": ("routes", policy(name="wrong-type"), "is a PolicySpec, not a RouteSpec"),
    "wrong-name": ("policies", policy(name="another"), "registered as 'wrong-name' but its Spec says 'another'"),
    "no-module": ("policies", policy(name="no-module", factory="x:y:z"), "is no `module:attribute`"),
    "no-factory": ("policies", policy(name="no-factory", factory="Absent"), "cannot be loaded: AttributeError"),
    "not-callable": ("policies", policy(name="not-callable", factory="NONE"), "is a NoneType and cannot be called"),
    "no-method": ("policies", policy(name="no-method", factory="Nothing"), "Nothing has no `order`"),
    "bad-method": ("policies", policy(name="bad-method", factory="Wrong"), "Wrong.order takes no `matched`"),
    "bad-factory": ("policies", policy(name="bad-factory", factory="Asks"), "is called as `()` but takes (context)"),
    "bad-probe": ("policies", policy(name="bad-probe", probe="{module}:raising"), "fails: ValueError: oops"),
    "torch": ("policies", f"import torch\n{policy(name='torch')}", "brings in torch"),
    "slow": (
        "policies",
        f"import time\nend = time.perf_counter() + 0.03\nwhile time.perf_counter() < end: pass\n{policy(name='slow')}",
        "ms, allowed are 5",
    ),
    "no-such-hook": ("hooks", HOOK.format(what="on_moon()"), "on_moon"),
    "bad-hook": ("hooks", HOOK.format(what="on_step(colour)"), "colour"),
    "no-hook": ("hooks", "X = 1\n", "implements no hook"),
}
GOOD = {
    "good": ("policies", policy(name="good")),
    "elsewhere": ("policies", policy(name="elsewhere", probe="{module}:probe")),
    "hooked": ("hooks", HOOK.format(what="on_step(stats)")),
}


def install(distribution: Callable[..., Path], name: str, family: str, code: str) -> Path:
    module = f"mod_{name.replace('-', '_')}"
    value = module if family == "hooks" else f"{module}:SPEC"
    return distribution(name, {f"sglcore.{family}.v1": {name: value}}, module, code.replace("{module}", module))


def test_every_fault_has_its_own_message(sglcore: Run, distribution: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("")  # whatever bears the name
    for name, (family, code, _) in FAULTS.items():
        install(distribution, name, family, code)
    for name, (family, code) in GOOD.items():
        install(distribution, name, family, code)
    done = sglcore("plugins", "doctor", *FAULTS, *GOOD, "--json", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1, done.stderr
    found: dict[str, Any] = {d["distribution"]: d["entries"][0] for d in json.loads(done.stdout)}
    for name, (family, _, told) in FAULTS.items():
        texts = [what for what, _ in found[name]["problems"]]
        assert len(texts) == 1 and told in texts[0], (name, texts)
        assert found[name]["group"] == f"sglcore.{family}.v1"
    for name in GOOD:
        assert found[name]["problems"] == [], name
        assert found[name]["ms"] < 5.0
    assert found["good"]["factory_ms"] is not None and found["hooked"]["factory_ms"] is None
    assert found["elsewhere"]["note"] == "cannot run here: there is no such chip"


def test_what_metadata_shows_needs_no_import(sglcore: Run, distribution: Callable[..., Path], tmp_path: Path) -> None:
    trap = "raise SystemExit('imported')\n"
    points = {"sglcore.models.v9": {"Later": "trap:SPEC"}, "sglcore.models.v1": {"Lost": "gone.spec:SPEC"}}
    points["sglcore.policies.v1"] = {"bent": "trap", "same": "trap:SPEC"}
    distribution("dist-a", points, "trap", trap)
    distribution("dist-b", {"sglcore.policies.v1": {"same": "trap:SPEC"}})
    distribution("dist-c", {"sglcore.models.v1": {"C": "trap:SPEC"}}, requires=('no-such>=2; extra == "runtime"',))
    done = sglcore("plugins", "doctor", "dist-a", "dist_b", "dist-c", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    text = done.stdout
    for told in (
        "speaks models API 9, this core reads 1 to 1",
        "module 'gone.spec', where its entry point leads, is not there",
        "is not `module:SPEC`",
        "Both dist-a 1.2 and dist-b 1.2",
        "it needs no-such>=2, which is not installed. Run `pip install 'no-such>=2'`.",
        "3 distributions",
        "things are wrong",
    ):
        assert told in text, text
    assert "imported" not in text


def test_a_healthy_plugin_ends_with_status_0(sglcore: Run, distribution: Callable[..., Path]) -> None:
    path = install(distribution, "good", "policies", GOOD["good"][1])
    done = sglcore("plugins", "doctor", "good", PYTHONPATH=str(path))
    assert done.returncode == 0, done.stdout
    first, second, last = done.stdout.splitlines()
    assert first == f"good 1.2 ({path})"
    assert second.startswith("  policies good: Spec ") and second.endswith("sglcore.policies.v1, mod_good:SPEC")
    assert last == "1 distributions, 1 names: all is well."


def test_a_stranger_is_told(sglcore: Run) -> None:
    done = sglcore("plugins", "doctor", "no-such-dist")
    assert done.returncode == 2
    assert "No distribution 'no-such-dist'" in done.stderr


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import signal\nwhile True:\n    signal.pause()\n", "did not end within 3 s"),
        ("import os\nprint('loud')\nos._exit(7)\n", "ended with exit code 7: loud"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "ended with signal SIGKILL"),
    ],
)
def test_a_plugin_that_hangs_or_dies(
    distribution: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, code: str, told: str
) -> None:
    path = install(distribution, "bad", "policies", code)
    monkeypatch.syspath_prepend(str(path))
    monkeypatch.setenv("PYTHONPATH", str(path))
    (problem,) = examine("bad", select_plugins(installed(), "auto"), 3.0).problems
    assert told in problem[0]


def test_one_that_dies_in_its_factory_does_not_take_others_along(
    distribution: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = policy(name="dies", module="dying") + policy(name="lives").replace("SPEC =", "OTHER =")
    path = distribution(
        "both",
        {"sglcore.policies.v1": {"dies": "mod:SPEC", "lives": "mod:OTHER"}},
        "mod",
        code.replace("{module}", "mod"),
    )
    (path / "dying.py").write_text("import os\nos._exit(3)\n")
    monkeypatch.syspath_prepend(str(path))
    monkeypatch.setenv("PYTHONPATH", str(path))
    seen = {s.name: s for s in examine("both", select_plugins(installed(), "auto"), 30.0).entries}
    assert "ended with exit code 3" in seen["dies"].problems[0][0]
    assert seen["lives"].problems == () and seen["lives"].factory_ms is not None


def test_what_a_child_leaves_running_is_ended(tmp_path: Path) -> None:
    """A grandchild that holds the output open neither delays the end nor outlives it."""
    code = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])"
    child = [sys.executable, "-c", code + "; print(p.pid)"]
    assert run_child(child, tmp_path / "said", 60.0) == (0, "ended with exit code 0")
    with contextlib.suppress(ProcessLookupError):  # it may be gone, waste disposal included
        left = os.pidfd_open(int((tmp_path / "said").read_text()))
        assert select.select([left], [], [], 60.0)[0], "it still runs"
        os.close(left)
