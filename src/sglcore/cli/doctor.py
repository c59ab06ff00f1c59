"""`sglcore doctor`: what this machine has and lacks, a line a check. Plugins' own checks run in other processes."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import sglcore
from sglcore.cli.plugins_process import run_child
from sglcore.contracts.attention import AttentionSpec
from sglcore.contracts.platforms import PlatformSpec
from sglcore.contracts.spec import Spec
from sglcore.installed import installed
from sglcore.plugins import Plugins, select
from sglcore.requirements import unmet

OK, WARNING, PROBLEM = "ok", "warning", "problem"
STATES = (OK, WARNING, PROBLEM)
SICK = 1  # exit status
TAIL = 300  # characters of what a process said that is shown when it fails


@dataclass(frozen=True)
class Check:
    """What was looked at, how it stands ("ok", "warning", "problem"), what was found, what would mend it."""

    check: str
    state: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.state:<8} {self.check}: {self.found}" + (f" -> {self.remedy}" if self.remedy else "")


def register(app: typer.Typer, argv: list[str]) -> None:
    """Add the command to `app`."""
    app.command("doctor")(doctor)


def doctor(
    gpu: Annotated[bool, typer.Option("--gpu", help="Check for GPUs too: driver, memory, compilers, kernels.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=1.0, help="Seconds a platform's checks may take.")] = 300.0,
) -> None:
    """Check this machine: libraries, devices, plugins, and what would mend them. Status 1 if there is a problem."""
    checks = []
    for check in examine(select(installed(), "auto"), gpu, timeout):
        checks.append(check)
        if not as_json:
            typer.echo(str(check))
    problems = sum(check.state == PROBLEM for check in checks)
    if as_json:
        typer.echo(json.dumps({"problems": problems, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        warnings = sum(check.state == WARNING for check in checks)
        typer.echo(f"{len(checks)} checks, {warnings} warnings, {problems} problems.")
    if problems:
        raise typer.Exit(SICK)


def examine(plugins: Plugins, gpu: bool, timeout: float) -> Iterator[Check]:
    """All checks, as they are done. gpu: it is asked whether a GPU can serve, so that the lack of one is a problem."""
    yield Check("sglcore", OK, f"{sglcore.__version__}, Python {platform.python_version()}")
    yield from _requirements()
    platforms: list[PlatformSpec] = plugins.registry("platforms").specs()
    asked = [spec for spec in platforms if spec.doctor] if gpu else platforms
    yield from _platforms(asked, plugins, gpu)
    if gpu:
        for spec in asked:
            yield from _own_checks(spec, timeout)
    yield from _attention(plugins, {spec.device for spec in asked}, gpu)


def _requirements() -> Iterator[Check]:
    missing = unmet(sglcore.__name__)
    for miss in missing:
        yield Check("libraries", PROBLEM, str(miss), miss.pip)
    if not missing:
        yield Check("libraries", OK, "all that sglcore needs is installed")


def _platforms(asked: list[PlatformSpec], plugins: Plugins, gpu: bool) -> Iterator[Check]:
    """Which platforms can be used; a problem where none can."""
    here = []
    for spec in asked:
        check = _probed("platform", spec)
        here += [spec] if check.state == OK else []
        yield check
    yield from _refused("platforms", "platform", plugins)
    if not asked:
        what = "no platform with checks of its own is usable, so no GPU can be used" if gpu else "none is usable"
        yield Check("platform", PROBLEM, what, "pip install sglcore-plugin-cuda" if gpu else "Reinstall sglcore.")
    elif not here:
        yield Check("platform", PROBLEM, "none of these can be used here", "See the lines above and below.")


def _attention(plugins: Plugins, devices: set[str], gpu: bool) -> Iterator[Check]:
    """Which attention backends serve one of the device types; a problem where none can."""
    specs: list[AttentionSpec] = plugins.registry("attention").specs()
    mine = [spec for spec in specs if devices & set(spec.platforms) or not spec.platforms]
    checks = [_probed("attention", spec) for spec in sorted(mine, key=lambda spec: -spec.priority)]
    yield from checks
    yield from _refused("attention", "attention", plugins)
    if devices and not any(check.state == OK for check in checks):
        what = "no attention backend can be used" + (" on a GPU" if gpu else "")
        yield Check("attention", PROBLEM, what, "See the lines above, or install one.")


def _probed(what: str, spec: Spec) -> Check:
    """What a plugin's probe says; the lack of one among several is a warning."""
    try:
        reason = spec.problem()
    except Exception as error:
        return Check(
            f"{what} {spec.name}", PROBLEM, f"its probe fails: {type(error).__name__}: {error}", "Reinstall it."
        )
    return Check(f"{what} {spec.name}", WARNING if reason else OK, reason or spec.summary or "can be used")


def _refused(family: str, what: str, plugins: Plugins) -> Iterator[Check]:
    """Plugins that are installed and not let in, or whose Spec cannot be imported."""
    for refusal in (*plugins.refused, *plugins.registry(family).broken):
        if refusal.entry.family == family:
            yield Check(f"{what} {refusal.entry.name}", WARNING, refusal.reason, refusal.remedy)


def _own_checks(spec: PlatformSpec, timeout: float) -> Iterable[Check]:
    """A platform's own, in a process that may crash."""
    with tempfile.TemporaryDirectory() as folder:
        said, result = Path(folder, "said"), Path(folder, "result")
        command = [sys.executable, "-m", "sglcore.cli.doctor_child", spec.doctor, str(result)]
        code, ended = run_child(command, said, timeout, environment=dict(os.environ))
        if code or not result.exists():
            told = " ".join(said.read_text(errors="replace").split())[-TAIL:]
            what = f"its checks {ended}" + (f", saying: {told}" if told else "")
            return [Check(f"platform {spec.name}", PROBLEM, what, "Reinstall the plugin, torch or the driver.")]
        return [_read(row, spec) for row in json.loads(result.read_text())]


def _read(row: Any, spec: PlatformSpec) -> Check:
    """A check as a plugin gives it; one that is none is a problem of the plugin."""
    try:
        check = Check(str(row["check"]), str(row["state"]), str(row["found"]), str(row.get("remedy", "")))
    except (TypeError, KeyError, AttributeError):
        check = None
    if check is None or check.state not in STATES:
        return Check(f"platform {spec.name}", PROBLEM, f"{spec.doctor} gives {row!r}, which is no check", "Upgrade it.")
    return check
