"""Commands that take a config: their Typer parameters are made from flags, the rest from the body's signature."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

import msgspec
import typer

from sglcore.cli.flags import ALIASES, PREFIX, Flag, flags_of, plugin_flags
from sglcore.cli.known_flags import NEUTRAL, ON, check_known, spellings
from sglcore.cli.sources import CONFIG_VARIABLE, Given, config_from, gather, peek_selection, values_from
from sglcore.errors import ConfigError
from sglcore.plugins import Plugins, discover

C = TypeVar("C", bound=msgspec.Struct)
_OFF = "off_"  # prefix of the hidden switch that turns a boolean off


@dataclass(frozen=True)
class Settings:
    """What was given for a command's flags. `plugins` is what --plugins allows of the installed ones."""

    flags: tuple[Flag, ...]
    given: dict[str, Given]
    plugins: Plugins

    def config(self, cls: type[C]) -> C:
        """All of it as a config. Raises ConfigError."""
        return config_from(cls, self.flags, self.given)

    def values(self) -> dict[str, Any]:
        """Only what was given, converted, as keywords for `LLM`. Raises ConfigError."""
        return values_from(self.flags, self.given)


def config_command(
    app: typer.Typer, name: str, cls: type[msgspec.Struct], body: Callable[..., None], argv: list[str]
) -> None:
    """Add command `name` to `app`: MODEL, the flags of `cls` and of plugins, and `body`'s own options.

    `body(settings, **own)` is called with what was given. `argv` is read for the flags that select plugins
    and for --config, because plugins add options. Raises PluginError or ConfigError.
    """
    own = _own_parameters(body)
    plugins = discover(peek_selection(argv, os.environ))
    flags = flags_of(cls)
    taken = {f.name for f in flags} | set(ALIASES) | {p.name for p in own}
    flags += plugin_flags(plugins, taken)

    def run(**values: Any) -> None:
        mine = {p.name: values.pop(p.name) for p in own}
        file = values.pop("config") or os.environ.get(CONFIG_VARIABLE)
        given = gather(flags, _typed(flags, values), file, os.environ, _warn)
        body(Settings(flags, given, plugins), **mine)

    parameters = [_MODEL, *own, _CONFIG]
    for flag in flags:
        parameters += _parameters(flag)
    parameters += _neutral({f.name for f in flags})
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app.command(name, help=inspect.getdoc(body))(run)


def _parameter(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_MODEL = _parameter("model", Annotated[str | None, typer.Argument(metavar="MODEL", show_default=False)])
_CONFIG = _parameter(
    "config",
    Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="YAML file of flags (`page-size: 16`). The command line wins over it, it wins over variables "
            f"({PREFIX}PAGE_SIZE=16), they win over defaults.",
        ),
    ],
)


def _own_parameters(body: Callable[..., None]) -> list[inspect.Parameter]:
    """`body`'s parameters after the settings, with evaluated annotations."""
    hints = get_type_hints(body, include_extras=True)
    rest = list(inspect.signature(body).parameters.values())[1:]
    return [_parameter(p.name, hints[p.name], p.default) for p in rest]


def _parameters(flag: Flag) -> list[inspect.Parameter]:
    """The flag's option. A boolean can be switched off too, by a hidden --no- where it is off by default."""
    text = flag.help
    if flag.default not in (None, False, "", ()):
        text += f" [default: {flag.default}]"
    if flag.plugin:
        text += f" (from {flag.plugin})"
    options = [flag.option, *(f"--{a}" for a, target in ALIASES.items() if target == flag.name)]
    if not flag.switch:
        option = typer.Option(*options, metavar=flag.metavar, help=text, show_default=False)
        kind = list[str] if flag.many else str
        return [_parameter(flag.name, Annotated[kind | None, option])]
    off = f"--no-{flag.option[2:]}"
    if flag.default:
        return [_parameter(flag.name, Annotated[bool | None, typer.Option(f"{flag.option}/{off}", help=text)])]
    return [
        _parameter(flag.name, Annotated[bool | None, typer.Option(*options, help=text, show_default=False)]),
        _parameter(_OFF + flag.name, Annotated[bool | None, typer.Option(off, hidden=True)]),
    ]


def _neutral(taken: set[str]) -> list[inspect.Parameter]:
    """Hidden options for known flags that may ask for what sglcore does anyway."""
    found = []
    for name, (value, _) in NEUTRAL.items():
        if name.replace("-", "_") not in taken:
            kind = bool if value == ON else str
            option = typer.Option(*spellings(name), hidden=True)
            found.append(_parameter("known_" + name.replace("-", "_"), Annotated[kind | None, option]))
    return found


def _typed(flags: tuple[Flag, ...], values: dict[str, Any]) -> dict[str, Any]:
    """The flags that were typed, out of all of the command's parameters. Raises ConfigError for contradictions."""
    typed = {f.name: values[f.name] for f in flags if values[f.name] is not None and values[f.name] != []}
    for name, value in values.items():
        if value is not None and name.startswith("known_"):
            check_known(name.removeprefix("known_"), value)
        if value and name.startswith(_OFF):
            positive = name.removeprefix(_OFF)
            if positive in typed:
                raise ConfigError(f"--{positive.replace('_', '-')} and its --no- form were both given.")
            typed[positive] = False
    model = values["model"]
    if model is not None and typed.setdefault("model_path", model) != model:
        raise ConfigError(
            f"Two models were named, {model!r} and --model-path {typed['model_path']!r}.", remedy="Keep one."
        )
    return typed


def _warn(text: str) -> None:
    typer.echo(f"sglcore: {text}", err=True)
