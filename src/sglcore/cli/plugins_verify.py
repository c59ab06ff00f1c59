"""`sglcore plugins verify`: the conformance kit and a plugin's own tests, on a folder or on what is installed."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from sglcore.cli.plugins_process import run_child
from sglcore.cli.plugins_project import Project, read_project
from sglcore.cli.plugins_report import CHECKS_NAME, VARIABLE
from sglcore.errors import ConfigError
from sglcore.installed import installed
from sglcore.plugins import select
from sglcore.registry import Entry, Refusal

UNFIT = 1  # exit status
CHECKS = Path(__file__).parent / "templates" / "verify" / "checks.py.tmpl"
CONFIGURED = ("[tool.pytest", "[tool:pytest", "[pytest]")  # marks pytest's settings in one of these files
CONFIG_FILES = ("pytest.toml", "pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")


@dataclass(frozen=True)
class Subject:
    """What is verified. paths: folders for the module search path. home, tests: None where there is no source."""

    title: str
    entries: tuple[Entry, ...]
    refused: tuple[Refusal, ...]
    paths: tuple[Path, ...] = ()
    home: Path | None = None
    tests: Path | None = None


@dataclass(frozen=True)
class Result:
    """One test: its id, "passed", "failed" or "skipped", and what it said."""

    test: str
    outcome: str
    text: str

    @property
    def group(self) -> str:
        """What it is counted under: a class of the kit, or a file of the plugin's own tests."""
        file, _, rest = self.test.partition("::")
        if file and Path(file).name != CHECKS_NAME:
            return file
        first = re.split(r"::|\[", rest)[0]
        return f"conformance: {re.sub('^[Tt]est[ _]?', '', first).lower()}"


def register(group: typer.Typer, argv: list[str]) -> None:
    """Add the command to `group`."""
    group.command("verify")(verify)


def verify(
    subject: Annotated[
        str, typer.Argument(metavar="PATH|NAME", show_default=False, help="A folder or a distribution.")
    ],
    timeout: Annotated[float, typer.Option("--timeout", min=1.0, help="Seconds for all of it.")] = 900.0,
) -> None:
    """Run the conformance kit and a plugin's own tests, installing nothing. Status 1 if the plugin is not fit."""
    if find_spec("pytest") is None:
        raise ConfigError("The conformance kit needs pytest, which is not installed.", remedy="pip install pytest")
    with tempfile.TemporaryDirectory(prefix="sglcore-verify-") as folder:
        found = _subject(subject, Path(folder))
        typer.echo(found.title)
        for refusal in found.refused:
            typer.echo(f"  WRONG  {refusal.error()}")
        fit = not found.refused and _run(found, Path(folder), timeout)
    typer.echo("It is fit." if fit else "It is not fit.")
    if not fit:
        raise typer.Exit(UNFIT)


def _subject(subject: str, folder: Path) -> Subject:
    """Raises ConfigError for a folder that holds no plugin, or a name that nobody installed."""
    if Path(subject).is_dir() or os.sep in subject:
        project = read_project(Path(subject).resolve())
        info = project.write_metadata(folder / "site")
        return _read(metadata.PathDistribution(info), (folder / "site", project.sources), project)
    try:
        distribution = metadata.distribution(subject)
    except (metadata.PackageNotFoundError, ValueError):
        raise ConfigError(
            f"{subject!r} is neither a folder nor an installed distribution.",
            remedy="Name the folder that holds the plugin's pyproject.toml, or what `sglcore plugins list` shows.",
        ) from None
    home = _editable(distribution)
    return _read(distribution, (), read_project(home) if home else None)


def _read(distribution: metadata.Distribution, paths: tuple[Path, ...], project: Project | None) -> Subject:
    plugins = select(installed([distribution]))
    entries = (*plugins.entries, *(left.entry for left in plugins.left_out))
    if not entries and not plugins.refused:
        raise ConfigError(f"{distribution.name} registers nothing for sglcore.")
    return Subject(
        f"{distribution.name} {distribution.version}",
        entries,
        tuple(plugins.refused),
        paths,
        project.folder if project else None,
        project.tests if project else None,
    )


def _editable(distribution: metadata.Distribution) -> Path | None:
    """The source folder of an editable installation."""
    try:
        told = json.loads(distribution.read_text("direct_url.json") or "{}")
    except ValueError:
        return None
    url = told.get("url", "")
    editable = told.get("dir_info", {}).get("editable") and url.startswith("file://")
    return Path(url.removeprefix("file://")) if editable else None


def _run(subject: Subject, folder: Path, timeout: float) -> bool:
    """Run everything in one process and tell of it; whether all went well."""
    checks, report = folder / CHECKS_NAME, folder / "report"
    points = tuple((e.family, e.name, e.value) for e in subject.entries)
    checks.write_text(Template(CHECKS.read_text("utf-8")).substitute(points=repr(points)), encoding="utf-8")
    report.touch()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "sglcore.cli.plugins_report"]
    command += [*_settings(subject.home, folder), str(checks), *([str(subject.tests)] if subject.tests else [])]
    path = os.pathsep.join(filter(None, [*map(str, subject.paths), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, VARIABLE: str(report)}
    code, ending = run_child(command, folder / "said", timeout, environment=environment, cwd=subject.home or folder)
    results = [Result(**json.loads(line)) for line in report.read_text("utf-8").splitlines()]
    for line in told(results):
        typer.echo(f"  {line}")
    if subject.tests is None:
        typer.echo("  note   it has no tests of its own here")
    if code not in (0, 1) or not results:
        last = (folder / "said").read_text("utf-8", "replace").strip().splitlines()[-3:]
        typer.echo(f"  WRONG  the tests {ending}: {' | '.join(last)}")
        return False
    return code == 0 and all(result.outcome != "failed" for result in results)


def told(results: list[Result]) -> list[str]:
    """A line for each group of tests with its counts, and one for each test that failed."""
    lines = []
    for group in dict.fromkeys(result.group for result in results):
        mine = [result for result in results if result.group == group]
        counts = Counter(result.outcome for result in mine)
        words = [f"{counts[outcome]} {outcome}" for outcome in ("passed", "skipped", "failed") if counts[outcome]]
        lines.append(f"{'WRONG' if counts['failed'] else 'ok':<6} {group}: {', '.join(words)}")
        lines += [f"       {_name(r)}: {' '.join(r.text.split())[:500]}" for r in mine if r.outcome == "failed"]
    return lines


def _name(result: Result) -> str:
    return result.test.rpartition("::")[2] or result.test


def _settings(home: Path | None, folder: Path) -> list[str]:
    """pytest's own: those of the plugin's folder, or none at all."""
    for name in CONFIG_FILES:
        file = home / name if home else None
        if file and file.is_file() and any(mark in file.read_text("utf-8", "replace") for mark in CONFIGURED):
            return ["-c", str(file), f"--rootdir={home}"]
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    return ["-c", str(folder / "pytest.ini"), f"--rootdir={home or folder}"]
