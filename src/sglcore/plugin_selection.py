"""Which of the installed plugins may take part: the user's selection, and what this core can use of it.

All of it is decided from packaging metadata; no plugin is imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sglcore.contracts.families import FAMILIES
from sglcore.errors import PluginError
from sglcore.installed import Installed, canonical
from sglcore.registry import CORE, Entry, Refusal

# The distributions of this repository, by name: a list of the core's, not a claim of theirs. Network-facing families
# of any other load only when named.
IN_TREE = frozenset(
    f"sglcore-plugin-{name}"
    for name in (
        "anthropic",
        "cpu-kernels",
        "cuda",
        "demo",
        "flashinfer",
        "gguf",
        "hermes",
        "llama",
        "modelscope",
        "ollama",
        "qwen3",
        "sagemaker",
        "scripted-model",
        "think",
        "triton-attention",
    )
) | {CORE}
VARIABLE = "SGLCORE_PLUGINS"  # what --plugins is where nobody gives it
WHEN_NAMED = "loads when named"


@dataclass(frozen=True)
class Selection:
    """Which installed plugins may take part; the flags of the same names.

    plugins: "auto" (all), "none" (built-ins only), or names of distributions, comma-separated; "auto" among the names
    means all, and the named ones must work. no_plugin: distributions to leave out. apis: dialects to serve, None for
    those of this repository. require_lock: a lock file that the plan must equal.
    """

    plugins: str = "auto"
    no_plugin: tuple[str, ...] = ()
    apis: str | None = None
    require_lock: str | None = None

    @classmethod
    def of(cls, config: Any, given: Iterable[str]) -> Selection:
        """What a config asks for; the environment speaks where `plugins` is not among the flags `given`."""
        chosen = config.plugins if "plugins" in given else os.environ.get(VARIABLE) or config.plugins
        return cls(chosen, tuple(config.no_plugin), getattr(config, "apis", None), config.require_lock)

    @classmethod
    def given(cls, plugins: str | None, no_plugin: tuple[str, ...] = (), apis: str | None = None) -> Selection:
        """What a command's own flags ask for; the environment speaks where there is no --plugins."""
        return cls(plugins or os.environ.get(VARIABLE) or "auto", no_plugin, apis)

    @property
    def named(self) -> frozenset[str]:
        """Canonical names of the distributions in `plugins`."""
        return frozenset(canonical(n) for n in names(self.plugins)) - {"auto", "none"}

    @property
    def without(self) -> frozenset[str]:
        """Canonical names of those to leave out."""
        return frozenset(canonical(n) for given in self.no_plugin for n in names(given))

    @property
    def everything(self) -> bool:
        """Whether distributions that are not named take part too."""
        return "auto" in names(self.plugins)


def names(text: str) -> list[str]:
    """The words of a comma-separated list."""
    return [word.strip() for word in text.split(",") if word.strip()]


def check_names(selection: Selection, everybody: set[str]) -> None:
    """Raises PluginError for names of nothing, and for names that contradict each other."""
    words = names(selection.plugins)
    if not words or ("none" in words and len(words) > 1):
        raise PluginError(
            f"--plugins {selection.plugins!r} is neither auto, none nor a list of distributions.",
            remedy="For example --plugins auto,sglcore-plugin-x.",
        )
    for flag, given in (("--plugins", selection.named), ("--no-plugin", selection.without)):
        missing = sorted(given - everybody - {CORE})
        if missing:
            remedy = f"pip install {missing[0]}" if flag == "--plugins" else "`sglcore plugins list` shows the names."
            raise PluginError(f"{flag} names {missing[0]!r}, which is not installed.", remedy=remedy)
    both = sorted(selection.named & selection.without)
    if both:
        raise PluginError(f"--plugins and --no-plugin both name {both[0]}.", remedy="Keep one.")
    if CORE in selection.without:
        raise PluginError("--no-plugin cannot leave out sglcore itself.", remedy="Name a plugin's distribution.")


def why_left_out(entry: Entry, selection: Selection, dialects: frozenset[str]) -> Refusal | None:
    """The selection's reason for not letting an entry in; None if it does."""
    owner = canonical(entry.distribution)
    if owner == CORE:
        return None
    if owner in selection.without:
        return Refusal(entry, f"--no-plugin {entry.distribution} leaves it out")
    named = owner in selection.named or (entry.family == "routes" and entry.name in dialects)
    if not named and not selection.everything:
        remedy = f"Add it, as in --plugins auto,{entry.distribution}."
        return Refusal(entry, f"--plugins {selection.plugins} leaves it out", remedy)
    family = FAMILIES.get(entry.family)
    if family is not None and family.network and owner not in IN_TREE and not named:
        by_name = f" or --apis {entry.name}" if entry.family == "routes" else ""
        return Refusal(entry, WHEN_NAMED, f"Name it: --plugins auto,{entry.distribution}{by_name}.")
    return None


def why_refused(entry: Entry, requirements: Requirements) -> Refusal | None:
    """Why this core cannot use an entry; None if it can."""
    reason, remedy = _version_problem(entry)
    if not reason and entry.distribution != CORE:
        reason, remedy = requirements.problem(entry.distribution)
    return Refusal(entry, reason, remedy) if reason else None


class Requirements:
    """What distributions need and lack, looked up once each."""

    def __init__(self, found: Installed) -> None:
        self._found = found
        self._problems: dict[str, tuple[str, str]] = {}
        self._versions: dict[str, str | None] = {}

    def problem(self, name: str) -> tuple[str, str]:
        """In words, with the remedy; empty if all is met."""
        if name not in self._problems:
            self._problems[name] = self._look(name)
        return self._problems[name]

    def _look(self, name: str) -> tuple[str, str]:
        distribution = self._found.distributions.get(canonical(name))
        if distribution is None:
            return "", ""
        from sglcore.requirements import unmet

        missing = unmet(distribution, self._versions)
        fixes = [miss.pip for miss in missing if miss.pip]
        return "; ".join(map(str, missing)), " && ".join(fixes) or f"Upgrade {name}."


def _version_problem(entry: Entry) -> tuple[str, str]:
    family = FAMILIES.get(entry.family)
    if family is None:
        reason = f"unknown plugin family {entry.family!r}; this core is older than the plugin: upgrade sglcore"
        return reason, "pip install --upgrade sglcore"
    speaks = f"speaks {entry.family} API {entry.api}, this core reads {family.oldest} to {family.version}"
    if entry.api > family.version:
        return f"{speaks}: upgrade sglcore", "pip install --upgrade sglcore"
    if entry.api < family.oldest:
        return f"{speaks}: upgrade the plugin", f"pip install --upgrade {entry.distribution}"
    return "", ""
