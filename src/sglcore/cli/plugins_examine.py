"""One distribution examined: its metadata here, its code in processes of their own that may fail, hang or die."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, replace
from importlib import metadata
from itertools import groupby
from pathlib import Path

import msgspec

from sglcore.cli.plugins_child import Outcome, Task
from sglcore.cli.plugins_list import readable
from sglcore.cli.plugins_process import run_child
from sglcore.cli.plugins_source import why_not_found
from sglcore.installed import canonical
from sglcore.plugins import CORE, Plugins
from sglcore.registry import Entry
from sglcore.requirements import Unmet, unmet

ALLOWED_MS = 5.0  # for a Spec or hook module, beyond what core has loaded
ATTEMPTS = 5  # the least time of several counts: the first may compile, and others use the machine too
Problem = tuple[str, str]  # what is wrong, remedy


@dataclass(frozen=True)
class Seen:
    """What is known of one entry. Times are milliseconds, None where nothing was imported."""

    family: str
    name: str
    group: str
    value: str
    ms: float | None = None
    factory_ms: float | None = None
    factory_heavy: tuple[str, ...] = ()
    note: str = ""
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Examined:
    """One distribution. home: the folder where its metadata was found. requirements: those it lacks."""

    distribution: str
    version: str
    home: str
    requirements: tuple[Problem, ...]
    entries: tuple[Seen, ...]

    @property
    def problems(self) -> list[Problem]:
        """Everything that is wrong with it."""
        return [*self.requirements, *(p for seen in self.entries for p in seen.problems)]


def examine(distribution: str, plugins: Plugins, timeout: float) -> Examined:
    """Look at everything a distribution registers. `timeout` seconds for each process."""
    metadata = plugins.installed.distributions[canonical(distribution)]
    mine = [e for e in _all(plugins) if e.distribution == distribution]
    lacking = tuple((str(miss), f"Run `{miss.pip}`." if miss.pip else "") for miss in _unmet(distribution, metadata))
    refused = [r for r in plugins.refused if r.entry.distribution == distribution]
    usable = [e for e in mine if all(r.entry is not e for r in refused)]
    seen = [_from_metadata(e, plugins) for e in usable]
    seen = _look_at_factories(usable, _look_at_specs(usable, seen, timeout), timeout)
    # what is refused for want of a requirement is said once, under the distribution
    told = [() if lacking and readable(r.entry) else ((r.reason, r.remedy),) for r in refused]
    seen += [replace(_blank(r.entry), problems=problems) for r, problems in zip(refused, told, strict=True)]
    return Examined(distribution, mine[0].version, str(metadata.locate_file("")), lacking, tuple(seen))


def _all(plugins: Plugins) -> list[Entry]:
    """Every entry that is installed, whatever has become of it."""
    return [*plugins.entries, *(r.entry for r in (*plugins.left_out, *plugins.refused))]


def _unmet(distribution: str, found: metadata.Distribution) -> list[Unmet]:
    return [] if distribution == CORE else unmet(found)


def _blank(entry: Entry) -> Seen:
    return Seen(entry.family, entry.name, f"sglcore.{entry.family}.v{entry.api}", entry.value)


def _from_metadata(entry: Entry, plugins: Plugins) -> Seen:
    """What metadata alone shows: an address that leads nowhere, another distribution with the same name."""
    problem = why_not_found(entry.value)
    if problem:
        return replace(_blank(entry), problems=((problem, "Correct the entry point, or reinstall the distribution."),))
    clash = plugins.registry(entry.family).clashes().get(entry.name)
    if clash is not None:
        return replace(_blank(entry), problems=((clash.message, clash.remedy),))
    return _blank(entry)


def _look_at_specs(entries: list[Entry], seen: list[Seen], timeout: float) -> list[Seen]:
    """Import each Spec or hook module, alone in a fresh process."""
    found = list(seen)
    open_ = [i for i, s in enumerate(seen) if not s.problems]
    for module, group in groupby(sorted(open_, key=lambda i: entries[i].value), lambda i: _module(entries[i])):
        indices = list(group)
        for index, outcome in zip(indices, _timed([entries[i] for i in indices], timeout), strict=True):
            wrong = [*outcome.problems, *_heavy(module, outcome), *_slow(module, outcome)]
            found[index] = replace(seen[index], ms=outcome.ms, problems=tuple(wrong))
    return found


def _look_at_factories(entries: list[Entry], seen: list[Seen], timeout: float) -> list[Seen]:
    """Import the code behind the Specs that are in order: in one process, or one each where that ends badly."""
    found = list(seen)
    wanted = [i for i, s in enumerate(seen) if not s.problems and entries[i].family != "hooks"]
    outcomes = _ask([entries[i] for i in wanted], timeout, deep=True) if wanted else []
    if isinstance(outcomes, str):
        alone = [_ask([entries[i]], timeout, deep=True) for i in wanted]
        outcomes = [_ended(entries[i], o) if isinstance(o, str) else o[0] for i, o in zip(wanted, alone, strict=True)]
    for index, outcome in zip(wanted, outcomes, strict=True):
        found[index] = replace(
            seen[index],
            factory_ms=outcome.ms,
            factory_heavy=tuple(outcome.heavy),
            note=outcome.note,
            problems=tuple(outcome.problems),
        )
    return found


def _timed(entries: list[Entry], timeout: float) -> list[Outcome]:
    """The outcomes of the attempt with the shortest import."""
    best: list[Outcome] | None = None
    for _ in range(ATTEMPTS):
        outcomes = _ask(entries, timeout, deep=False)
        if isinstance(outcomes, str):
            return [_ended(entry, outcomes) for entry in entries]
        if best is None or outcomes[0].ms < best[0].ms:
            best = outcomes
        if best[0].ms <= ALLOWED_MS or best[0].heavy:
            break
    assert best is not None
    return best


def _ask(entries: list[Entry], timeout: float, *, deep: bool) -> list[Outcome] | str:
    """What a fresh process sees of the entries, or how it ended where it could not say."""
    rows = [(e.family, e.name, e.value, e.distribution, e.version, e.api) for e in entries]
    with tempfile.TemporaryDirectory(prefix="sglcore-") as folder:
        result, said = Path(folder, "result"), Path(folder, "said")
        task = msgspec.json.encode(Task(rows, deep, str(result)))
        _, ending = run_child([sys.executable, "-m", "sglcore.cli.plugins_child"], said, timeout, task=task)
        if result.exists():
            return msgspec.json.decode(result.read_bytes(), type=list[Outcome])
        last = said.read_text(errors="replace").strip().splitlines()[-1:]
        return f"{ending}{': ' if last else ''}{''.join(last)}"


def _ended(entry: Entry, how: str) -> Outcome:
    told = f"the process that imported {entry.value} {how}"
    return Outcome(problems=[(told, "An import must neither wait for anything nor end its process.")])


def _heavy(module: str, outcome: Outcome) -> list[Problem]:
    if not outcome.heavy:
        return []
    told = f"importing {module} brings in {' and '.join(outcome.heavy)} ({outcome.ms:.0f} ms at every start)"
    return [(told, "Import it in the module of the factory, or under TYPE_CHECKING.")]


def _slow(module: str, outcome: Outcome) -> list[Problem]:
    if outcome.heavy or outcome.ms <= ALLOWED_MS:
        return []
    told = f"importing {module} takes {outcome.ms:.1f} ms, allowed are {ALLOWED_MS:g}"
    return [(told, "Move what it imports or computes to the module of the factory.")]


def _module(entry: Entry) -> str:
    return entry.value.partition(":")[0]
