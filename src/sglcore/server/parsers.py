"""The tool and reasoning parsers that a server uses: found by name or by chat template, loaded once per process."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from operator import methodcaller
from typing import Any

from sglcore.contracts.parsers import ParseContext, ReasoningParserSpec, ToolParserSpec
from sglcore.errors import ConfigError, PluginError
from sglcore.isolation import Breaker
from sglcore.plugins import Plugins
from sglcore.registry import Entry, Registry
from sglcore.server_config import ServerConfig

AUTO = "auto"
FLAGS = {"tool_parsers": "--tool-call-parser", "reasoning_parsers": "--reasoning-parser"}
KINDS = {"tool_parsers": "Tool parser", "reasoning_parsers": "Reasoning parser"}
REST_SECONDS = 60.0  # how long a parser that failed again and again is left out before it is tried again


@dataclass(frozen=True)
class Served:
    """One parser in service.

    make: its factory; raises whatever the plugin raises. special: some marker of it is a special token of the model.
    """

    family: str
    name: str
    distribution: str
    version: str
    spec: ToolParserSpec | ReasoningParserSpec
    make: Callable[[ParseContext], Any]
    breaker: Breaker
    special: bool = False

    def warning(self, code: str, what: str) -> dict[str, Any]:
        """What a client is told where this parser did not do its work."""
        who = f"{KINDS[self.family]} {self.name!r} of {self.distribution} {self.version}"
        return {
            "code": code,
            "message": f"{who} {what}; the model's text is given as it is.",
            "family": self.family,
            "name": self.name,
            "distribution": self.distribution,
            "version": self.version,
        }


@dataclass(frozen=True)
class AnswerParsers:
    """Those of one API process; None where the flag is not given."""

    tool: Served | None = None
    reasoning: Served | None = None


@dataclass(frozen=True)
class TemplateFacts:
    """What choosing and serving a parser asks of the model: its chat template and its special tokens."""

    chat_template: str | None
    special_tokens: frozenset[str]


def check_names(config: ServerConfig, plugins: Plugins) -> None:
    """Refuse names that nobody provides, before anything is started. Raises PluginError naming the flag."""
    for family, name in _asked(config):
        if name != AUTO:
            _named(family, name, methodcaller("spec", name), plugins)


def load_parsers(config: ServerConfig, plugins: Plugins, facts: TemplateFacts | None) -> AnswerParsers:
    """Load what the flags name, and try each on nothing, so that one that cannot be made stops the start.

    Raises PluginError naming the flag and the distribution, ConfigError where `auto` finds none or several.
    """
    served: dict[str, Served] = {}
    for family, name in _asked(config):
        if facts is None:
            raise ConfigError(
                f"{FLAGS[family]} {name} needs text, and --skip-tokenizer-init serves token ids only.",
                remedy="Leave one of them out.",
            )
        name = _suited(family, plugins, facts) if name == AUTO else name
        served[family] = served_parser(family, name, plugins, facts)
    return AnswerParsers(served.get("tool_parsers"), served.get("reasoning_parsers"))


def _asked(config: ServerConfig) -> list[tuple[str, str]]:
    pairs = (("tool_parsers", config.tool_call_parser), ("reasoning_parsers", config.reasoning_parser))
    return [(family, name) for family, name in pairs if name is not None]


def _named(family: str, name: str, use: Callable[[Registry[Any]], Any], plugins: Plugins) -> Any:
    try:
        return use(plugins.registry(family))
    except PluginError as error:
        raise PluginError(f"{FLAGS[family]} {name}: {error.message}", remedy=error.remedy) from error


def served_parser(family: str, name: str, plugins: Plugins, facts: TemplateFacts) -> Served:
    """The parser of that name, loaded and tried on nothing. Raises PluginError naming the flag and the distribution."""

    def use(registry: Registry[Any]) -> Served:
        entry, spec, make = registry.entry(name), registry.spec(name), registry.factory(name)
        make(ParseContext())
        breaker = plugins.faults.breaker(entry.distribution, f"{family} {name}", rest=REST_SECONDS)
        special = not facts.special_tokens.isdisjoint(spec.markers)
        return Served(family, name, entry.distribution, entry.version, spec, make, breaker, special)

    served: Served = _named(family, name, use, plugins)
    return served


def _suited(family: str, plugins: Plugins, facts: TemplateFacts) -> str:
    """The one parser whose `suits` the model's chat template matches."""
    registry = plugins.registry(family)
    template = facts.chat_template or ""
    fitting = [spec.name for spec in registry.specs() if _suits(registry.entry(spec.name), spec.suits, template)]
    if len(fitting) == 1:
        return str(fitting[0])
    found = f"{' and '.join(fitting)} suit" if fitting else "no installed parser suits"
    raise ConfigError(
        f"{FLAGS[family]} auto: {found} this model's chat template.",
        remedy=f"Name one of: {', '.join(sorted(registry)) or 'none is installed'}.",
    )


def _suits(entry: Entry, patterns: tuple[str, ...], template: str) -> bool:
    try:
        return any(re.search(pattern, template) for pattern in patterns)
    except (re.error, TypeError) as error:
        raise PluginError(
            f"{entry} declares `suits` {patterns!r}, which are no regular expressions: {error}.",
            remedy=f"Name a parser instead of auto, or start with --no-plugin {entry.distribution}.",
        ) from None
