"""Options of benchmarks: their structs become Typer parameters, as the configs' fields do."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from sglcore.bench.options import OutputOptions
from sglcore.cli.command import Settings, config_command
from sglcore.cli.flags import Flag, flags_of

O = TypeVar("O", bound=OutputOptions)  # noqa: E741
SPELLINGS = {"batch_size": ("--batch",), "result_filename": ()}


def options_command(
    group: typer.Typer, name: str, cls: type[O], body: Callable[[O], None], text: str | None = None
) -> None:
    """Add a command whose parameters are the fields of `cls`; `body` is called with them."""

    def run(**values: Any) -> None:
        body(options_from(cls, values))

    run.__signature__ = inspect.Signature(parameters(flags_of(cls)))  # type: ignore[attr-defined]
    group.command(name, help=text or inspect.getdoc(body))(run)


def engine_command(
    group: typer.Typer,
    name: str,
    cls: type[O],
    config: type[msgspec.Struct],
    body: Callable[[Settings, O], None],
    argv: list[str],
) -> None:
    """Add a command with the fields of `cls` and MODEL with the flags of `config`, as `config_command` makes them."""

    def run(settings: Settings, **values: Any) -> None:
        body(settings, options_from(cls, values))

    own = parameters(flags_of(cls))
    first = inspect.Parameter("settings", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Settings)
    run.__signature__ = inspect.Signature([first, *own])  # type: ignore[attr-defined]
    run.__annotations__ = {"settings": Settings} | {p.name: p.annotation for p in own}
    run.__doc__ = inspect.getdoc(body)
    config_command(group, name, config, run, argv)


def parameters(flags: Iterable[Flag]) -> list[inspect.Parameter]:
    """A Typer parameter for each flag, not given by default."""
    return [
        inspect.Parameter(flag.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(flag))
        for flag in flags
    ]


def options_from(cls: type[O], values: dict[str, Any]) -> O:
    """The struct of what was given. Raises ConfigError naming the flag, its bounds and the value."""
    given = {}
    for flag in flags_of(cls):
        value = values.get(flag.name)
        if value is not None and value != []:
            given[flag.key] = flag.read(_split(value) if flag.many and flag.name != "header" else value, flag.option)
    return cls(**given)


def _annotation(flag: Flag) -> Any:
    text = flag.help
    if flag.default not in (None, False, "", ()):
        shown = ",".join(map(str, flag.default)) if isinstance(flag.default, tuple) else flag.default
        text += f" [default: {shown}]"
    names = (flag.option, *SPELLINGS.get(flag.name, ()))
    if flag.switch:
        return Annotated[bool | None, typer.Option(*names, help=text, show_default=False)]
    kind = list[str] if flag.many else str
    return Annotated[kind | None, typer.Option(*names, metavar=flag.metavar, help=text, show_default=False)]


def _split(values: list[str]) -> list[str]:
    """`--batch 1,16 --batch 64` as three values."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]
