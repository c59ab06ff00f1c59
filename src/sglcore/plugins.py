"""Plugins: apply the user's selection to what is installed, fix one plan, load exactly it in every process.

Discovery imports nothing: entry-point groups `sglcore.<family>.v<N>` say which names exist and which API version they
speak (installed.py). What is chosen is imported later, by the process that needs it.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sglcore.errors import PluginError
from sglcore.installed import Installed, canonical, installed
from sglcore.plugin_plan import PluginPlan, make_plan, plan_difference
from sglcore.plugin_selection import IN_TREE, Requirements, Selection, check_names, names, why_left_out, why_refused
from sglcore.registry import CORE, Entry, Refusal, Registry, load_attribute

if TYPE_CHECKING:
    import pluggy

    from sglcore.isolation import Faults, Hooks

__all__ = [
    "CORE",
    "IN_TREE",
    "TRACE_VARIABLE",
    "Entry",
    "PluginPlan",
    "Plugins",
    "Refusal",
    "Selection",
    "canonical",
    "discover",
    "from_plan",
    "select",
]

log = logging.getLogger("sglcore.plugins")

TRACE_VARIABLE = "SGLCORE_TRACE_HOOKS"  # set by `sglcore plugins trace`, for this process and its children


@dataclass
class Plugins:
    """What takes part, what is refused, what is left out, and a registry per family.

    required: canonical names of the distributions asked for by name: these must work.
    refused: entries this core cannot use. left_out: usable ones that the selection does not let in.
    broken: hook modules that failed to load and are not in use.
    """

    entries: list[Entry]
    refused: list[Refusal] = field(default_factory=list)
    left_out: list[Refusal] = field(default_factory=list)
    required: frozenset[str] = frozenset()
    installed: Installed = field(default_factory=Installed)
    broken: list[Refusal] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._registries: dict[str, Registry[Any]] = {}
        self._manager: pluggy.PluginManager | None = None
        self._hooks: Hooks | None = None
        self._faults: Faults | None = None
        self._plan: PluginPlan | None = None

    def registry(self, family: str) -> Registry[Any]:
        """The names of `family`."""
        if family not in self._registries:
            mine = [e for e in self.entries if e.family == family]
            unused = [r for r in (*self.refused, *self.left_out) if r.entry.family == family]
            self._registries[family] = Registry(family, mine, unused, self._is_required)
        return self._registries[family]

    @property
    def hooks(self) -> Hooks:
        """The hooks of all plugins, each implementation contained by itself: `plugins.hooks.on_step(stats=...)`."""
        if self._hooks is None:
            from sglcore.isolation import Hooks

            versions = {e.distribution: e.version for e in self.entries}
            self._hooks = Hooks(self.hook_manager.hook, self.faults, versions)
        return self._hooks

    @property
    def faults(self) -> Faults:
        """What plugins have got wrong in this process, and the breakers that keep it apart."""
        if self._faults is None:
            from sglcore.isolation import Faults

            self._faults = Faults()
        return self._faults

    @property
    def hook_manager(self) -> pluggy.PluginManager:
        """The pluggy manager behind `hooks`. Loads the hook modules on first use; see `broken`.

        Raises PluginError if one of a required distribution fails.
        """
        if self._manager is None:
            import pluggy

            from sglcore import hookspecs

            self._manager = pluggy.PluginManager(CORE)
            self._manager.add_hookspecs(hookspecs)
            for entry in sorted(
                (e for e in self.entries if e.family == "hooks"), key=lambda e: (e.distribution, e.name)
            ):
                try:
                    _register(self._manager, entry)
                except PluginError as error:
                    if self._is_required(entry.distribution):
                        raise
                    log.warning("%s", error)
                    self.broken.append(Refusal(entry, error.message, error.remedy))
            if os.environ.get(TRACE_VARIABLE):
                from sglcore.hook_trace import trace

                trace(self._manager)
        return self._manager

    def version(self, distribution: str) -> str:
        """Of a distribution that takes part; "" for a stranger."""
        return next((e.version for e in self.entries if e.distribution == distribution), "")

    def plan(self) -> PluginPlan:
        """The immutable list that children must reproduce. Reads RECORD files, once."""
        if self._plan is None:
            by_name = {
                e.distribution: self.installed.distributions.get(canonical(e.distribution)) for e in self.entries
            }
            known = {name: found for name, found in by_name.items() if found is not None}
            self._plan = make_plan(self.entries, known, self.required)
        return self._plan

    def clashes(self) -> list[PluginError]:
        """Every name that two distributions register."""
        return [
            e for family in sorted({e.family for e in self.entries}) for e in self.registry(family).clashes().values()
        ]

    def check_required(self) -> None:
        """Import the Specs and hook modules of what was asked for by name. Raises PluginError for the first bad one."""
        for entry in self.entries:
            if not self._is_required(entry.distribution):
                continue
            if entry.family == "hooks":
                _ = self.hook_manager
            else:
                self.registry(entry.family).spec(entry.name)

    def report(self) -> None:
        """Log one line for each plugin that is installed and cannot be used."""
        for refusal in self.refused:
            log.warning("Not used: %s", refusal.error())
        for clash in self.clashes():
            log.warning("Not used: %s", clash)

    def __str__(self) -> str:
        """The plan in a line, for logs: its digest, and the distributions beside the core."""
        plan = self.plan()
        strangers = [f"{name} {version}" for name, version, _ in plan.distributions if name != CORE]
        return f"Plugin plan {plan.digest}: {', '.join(strangers) or 'built-ins only'}"

    def _is_required(self, distribution: str) -> bool:
        return canonical(distribution) in self.required


def discover(choice: str | Selection | None = None) -> Plugins:
    """Read installed metadata and apply a selection; by default, what the environment says.

    Imports code only of distributions that are named. Raises PluginError if one of those is missing, refused or
    fails, if names contradict each other, or if the lock file asks for others.
    """
    if not isinstance(choice, Selection):
        choice = Selection.given(choice)
    plugins = select(installed(), choice)
    if choice.require_lock is not None:
        from sglcore.plugin_lock import check_lock

        check_lock(plugins.plan(), choice.require_lock)
    plugins.check_required()
    return plugins


def select(found: Installed | list[Entry], choice: str | Selection = "auto") -> Plugins:
    """Keep what the selection lets in and this core can read; the rest stands under `left_out` and `refused`.

    Raises PluginError for names of nothing, names that contradict each other, and a named distribution's refusal.
    """
    found = found if isinstance(found, Installed) else Installed(list(found))
    selection = choice if isinstance(choice, Selection) else Selection(choice)
    check_names(selection, {canonical(e.distribution) for e in found.everything})
    dialects = frozenset(names(selection.apis or ""))
    owners = {canonical(e.distribution) for e in found.entries if e.family == "routes" and e.name in dialects}
    plugins = Plugins([], required=(selection.named | owners) - {CORE}, installed=found)
    broken = {id(r.entry): r for r in found.broken}
    requirements = Requirements(found)
    for entry in found.everything:
        outside = why_left_out(entry, selection, dialects)
        if outside is not None:
            plugins.left_out.append(outside)
        elif refused := broken.get(id(entry)) or why_refused(entry, requirements):
            plugins.refused.append(refused)
        else:
            plugins.entries.append(entry)
    wrong = next((r for r in plugins.refused if canonical(r.entry.distribution) in plugins.required), None)
    if wrong is not None:
        raise wrong.error()
    return plugins


def from_plan(plan: PluginPlan) -> Plugins:
    """What a child process uses: the parent's plan, after checking that this interpreter sees the same.

    Raises PluginError naming the distribution that is not there or has changed.
    """
    found = installed()
    seen = {(e.family, e.name, e.value, e.distribution, e.version, e.api): e for e in found.entries}
    plugins = Plugins([e for row in plan.entries if (e := seen.get(row))], installed=found)
    plugins.required = frozenset(plan.required)
    problem = plan_difference(plan, plugins.plan())
    if problem:
        raise PluginError(
            f"This process does not see the plugins that its parent planned with: {problem}.",
            remedy="Start all processes in the same environment, and restart after installing plugins.",
        )
    return plugins


def _register(manager: pluggy.PluginManager, entry: Entry) -> None:
    """Add a hook module. Raises PluginError if it cannot be imported or does not fit the hooks."""
    import pluggy

    module, name = load_attribute(entry), f"{entry.distribution}:{entry.name}"
    try:
        manager.register(module, name=name)
        problem = next((f"{i.function.__name__} is a wrapper" for i in _wrappers(manager, module)), "")
    except (pluggy.PluginValidationError, ValueError) as error:
        problem = " ".join(str(error).split())
    if problem:
        manager.unregister(name=name)
        raise PluginError(
            f"{entry.distribution} {entry.version}: hooks {entry.value}: {problem}.",
            remedy=f"Upgrade it, or start with --no-plugin {entry.distribution}.",
        )


def _wrappers(manager: pluggy.PluginManager, module: Any) -> list[Any]:
    """Implementations that stand around the others, which sglcore does not call: they could hide what those say."""
    callers = manager.get_hookcallers(module) or []
    return [i for c in callers for i in c.get_hookimpls() if i.plugin is module and (i.wrapper or i.hookwrapper)]
