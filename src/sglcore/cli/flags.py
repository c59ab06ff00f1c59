"""Flags: what the command line, the config file and the environment may say, read off the config structs.

A field's annotation is the single source of a flag's name, type, bounds and help. Options of plugins
(`add_options`) become flags of the same kind and land in `EngineConfig.extras`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import inspect

from sglcore.errors import ConfigError, PluginError
from sglcore.isolation import hook_error
from sglcore.options import Option
from sglcore.plugins import Plugins

PREFIX = "SGLCORE_"
# Other spellings that SGLang takes for a field.
ALIASES = {
    "model": "model_path",
    "tp": "tp_size",
    "tensor-parallel-size": "tp_size",
    "stream-output": "incremental_streaming_output",
}
RESERVED = frozenset({"config", "help", "extras"})
_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_SHOWN = 80  # characters of a refused value that a message repeats


@dataclass(frozen=True)
class Flag:
    """One flag. `name` is spelled with underscores; `type` is what msgspec converts to.

    key: the name under which the value is stored, in the config or in its `extras`.
    plugin: the distribution that contributed it; empty for sglcore's own.
    """

    name: str
    type: Any
    default: Any
    help: str
    key: str
    plugin: str = ""

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    @property
    def switch(self) -> bool:
        """Whether it is given without a value."""
        return isinstance(_plain(self.type), inspect.BoolType)

    @property
    def many(self) -> bool:
        """Whether it may be repeated; in a file it is a list, in a variable comma-separated."""
        return isinstance(_plain(self.type), inspect.VarTupleType)

    @property
    def metavar(self) -> str:
        """What stands for the value in help texts."""
        kind = _plain(self.type)
        if isinstance(kind, inspect.LiteralType):
            return "|".join(str(v) for v in kind.values)
        return {inspect.IntType: "INT", inspect.FloatType: "NUMBER"}.get(type(kind), "TEXT")

    @property
    def takes(self) -> str:
        """The values it accepts, in words: "an integer from 1 to 1024"."""
        kind = _plain(self.type)
        if isinstance(kind, inspect.LiteralType):
            return ("one of " if len(kind.values) > 1 else "only ") + ", ".join(str(v) for v in kind.values)
        if isinstance(kind, inspect.BoolType):
            return "true or false"
        if isinstance(kind, inspect.IntType | inspect.FloatType):
            noun = "an integer" if isinstance(kind, inspect.IntType) else "a number"
            return f"{noun} {_bounds(kind)}".strip()
        if self.many:
            item = getattr(kind, "item_type", None)
            noun = f"integers {_bounds(item)}".strip() if isinstance(item, inspect.IntType) else "texts"
            return f"{noun}, one each time it is given"
        longest = getattr(kind, "max_length", None)
        return "text" + (f" of at most {longest} characters" if longest else "")

    def read(self, value: Any, source: str) -> Any:
        """Convert a value, strings included. Raises ConfigError with flag, bounds, value and where it was given."""
        if isinstance(value, dict | list) and isinstance(_plain(self.type), inspect.StrType):
            value = msgspec.json.encode(value).decode()
        if self.many and isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        try:
            return msgspec.convert(value, self.type, strict=False)
        except msgspec.ValidationError:
            where = "" if source == self.option else f" (from {source})"
            raise ConfigError(f"{self.option} takes {self.takes}, not {self._shown(value)}{where}.") from None

    def _shown(self, value: Any) -> str:
        if self.name.endswith("api_key"):
            return "what was given"
        text = repr(value)
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def flags_of(cls: type[msgspec.Struct]) -> tuple[Flag, ...]:
    """The flags of a config struct, in the order of its fields."""
    helps = {f.name: _description(f.type) for f in inspect.type_info(cls).fields}  # type: ignore[attr-defined]
    return tuple(
        Flag(f.name, f.type, None if f.required else f.default, helps[f.name], f.name)
        for f in msgspec.structs.fields(cls)
        if f.name not in RESERVED
    )


def plugin_flags(plugins: Plugins, taken: set[str]) -> tuple[Flag, ...]:
    """The flags that plugins contribute through `add_options`.

    `taken` are the names in use, with underscores. Raises PluginError naming the distribution where
    an option is malformed or its name is taken.
    """
    owners = dict.fromkeys(taken, "sglcore")
    flags = []
    for implementation in plugins.hook_manager.hook.add_options.get_hookimpls():
        distribution = implementation.plugin_name.partition(":")[0]
        for option in _options(implementation.function, distribution, plugins.version(distribution)):
            flag = _plugin_flag(option, distribution)
            if flag.name in owners:
                raise PluginError(
                    f"{distribution} adds the option {flag.option}, which {owners[flag.name]} has already.",
                    remedy=f"Start with --no-plugin {distribution}, or uninstall one.",
                )
            owners[flag.name] = distribution
            flags.append(flag)
    return tuple(flags)


def _options(function: Any, distribution: str, version: str) -> list[Option]:
    try:
        options = list(function())
        wrong = next((o for o in options if not isinstance(o, Option)), None)
        if wrong is not None:
            raise TypeError(f"it returns a {type(wrong).__name__} among its options, not an Option")
        return options
    except Exception as error:
        raise hook_error(distribution, version, "add_options", error) from error


def _plugin_flag(option: Option, distribution: str) -> Flag:
    if not _NAME.fullmatch(option.name) or option.name in RESERVED or option.type not in (str, int, float, bool):
        raise PluginError(
            f"{distribution} adds the option {option.name!r} of type {option.type!r}; a name is lower-case words "
            "joined by dashes, a type is str, int, float or bool."
        )
    kind = option.type if option.default is not None else option.type | None
    return Flag(option.name.replace("-", "_"), kind, option.default, option.help, option.name, distribution)


def _plain(annotation: Any) -> inspect.Type:
    """The type behind Annotated and `| None`."""
    kind = inspect.type_info(annotation)
    while isinstance(kind, inspect.Metadata | inspect.UnionType):
        if isinstance(kind, inspect.Metadata):
            kind = kind.type
        else:
            kind = next(t for t in kind.types if not isinstance(t, inspect.NoneType))
    return kind


def _description(kind: inspect.Type) -> str:
    return str((getattr(kind, "extra_json_schema", None) or {}).get("description", ""))


def _bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f"from {kind.ge} to {kind.le}"
    limits = ((kind.ge, "at least"), (kind.gt, "above"), (kind.le, "at most"), (kind.lt, "below"))
    return " and ".join(f"{words} {limit:g}" for limit, words in limits if limit is not None)
