"""`sglcore plugins doctor`: imports every plugin in processes of its own and says what is wrong with each."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from sglcore.cli.plugins_examine import Examined, Seen, examine
from sglcore.errors import ConfigError
from sglcore.installed import canonical, installed
from sglcore.plugins import Plugins, select

SICK = 1  # exit status


def register(group: typer.Typer, argv: list[str]) -> None:
    """Add the command to `group`."""
    group.command("doctor")(doctor)


def doctor(
    names: Annotated[list[str] | None, typer.Argument(metavar="[DISTRIBUTION]...", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=1.0, help="Seconds that one import may take.")] = 60.0,
) -> None:
    """Import every plugin in a process of its own: times, faults, and what would mend them. Status 1 if any is ill."""
    examined: list[Examined] = []
    for distribution in _chosen(names or []):
        examined.append(examine(*distribution, timeout))
        if not as_json:
            typer.echo(told(examined[-1]))
    if as_json:
        import json

        typer.echo(json.dumps([asdict(e) for e in examined], indent=2))
    else:
        typer.echo(_summary(examined))
    if any(e.problems for e in examined):
        raise typer.Exit(SICK)


def told(examined: Examined) -> str:
    """One distribution: a line an entry, and under it what is wrong."""
    lines = [f"{examined.distribution} {examined.version} ({examined.home})"]
    lines += _wrong(examined.requirements, "  ")
    for seen in examined.entries:
        lines.append(f"  {seen.family} {seen.name}: {_times(seen)}{seen.group}, {seen.value}")
        lines += _wrong(seen.problems, "    ")
        lines += [f"    {seen.note}"] if seen.note else []
    return "\n".join(lines)


def _times(seen: Seen) -> str:
    """Only what was imported has a time."""
    words = "module" if seen.family == "hooks" else "Spec"
    text = f"{words} {seen.ms:.1f} ms, " if seen.ms is not None else ""
    if seen.factory_ms is None:
        return text
    heavy = f" with {', '.join(seen.factory_heavy)}" if seen.factory_heavy else ""
    return f"{text}factory {seen.factory_ms:.0f} ms{heavy}, "


def _wrong(problems: tuple[tuple[str, str], ...], indent: str) -> list[str]:
    return [f"{indent}WRONG: {what}. {remedy}".rstrip() for what, remedy in problems]


def _summary(examined: list[Examined]) -> str:
    entries, wrong = sum(len(e.entries) for e in examined), sum(len(e.problems) for e in examined)
    verdict = f"{wrong} thing{'s are' if wrong > 1 else ' is'} wrong" if wrong else "all is well"
    return f"{len(examined)} distributions, {entries} names: {verdict}."


def _chosen(names: list[str]) -> list[tuple[str, Plugins]]:
    """The distributions asked for, all by default, each with what is installed. Raises ConfigError for a stranger."""
    plugins = select(installed(), "auto")
    found = plugins.installed
    entries = [*found.entries, *(broken.entry for broken in found.broken)]
    names_of = {canonical(e.distribution): e.distribution for e in entries}
    unknown = [name for name in names if canonical(name) not in names_of]
    if unknown:
        raise ConfigError(
            f"No distribution {unknown[0]!r} with plugins is installed.",
            remedy="`sglcore plugins list` shows those that are.",
        )
    wanted = [canonical(name) for name in names] or sorted(names_of)
    return [(names_of[name], plugins) for name in wanted]
