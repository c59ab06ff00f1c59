"""What every Spec must be, of whatever family; torch-free."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from sglcore.contracts.families import FAMILIES
from sglcore.contracts.spec import Spec

ADDRESS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def spec_class(family: str) -> type[Spec]:
    """The class that Specs of a family are of."""
    module, _, name = FAMILIES[family].spec.partition(":")
    found: type[Spec] = getattr(importlib.import_module(module), name)
    return found


def check_spec(spec: Any, *, kind: type[Spec] = Spec, name: str | None = None) -> None:
    """Raises AssertionError saying what is wrong with a Spec.

    kind: the class of its family. name: what it is registered as.
    """
    assert isinstance(spec, kind), f"{spec!r:.200} is a {type(spec).__name__}, not a {kind.__name__}"
    assert isinstance(spec.name, str) and spec.name.strip(), f"{spec!r:.200} has no name"
    assert name is None or spec.name == name, f"it is registered as {name!r} but calls itself {spec.name!r}"
    for field, needed in (("factory", True), ("probe", False)):
        address = getattr(spec, field)
        well = isinstance(address, str) and (ADDRESS.fullmatch(address) or not (address or needed))
        assert well, f"{spec.name}: {field} is {address!r}, not `package.module:attribute`"
    assert isinstance(spec.summary, str) and "\n" not in spec.summary, f"{spec.name}: the summary is one line"
    assert spec.name not in spec.replaces, f"{spec.name} says that it replaces itself"
    for field_ in dataclasses.fields(spec):
        value = getattr(spec, field_.name)
        assert _plain(value), (
            f"{spec.name}: {field_.name} is {value!r}; a Spec holds plain values: text, numbers, tuples, JSON"
        )


def check_factory(spec: Spec) -> Any:
    """The factory, loaded. Raises AssertionError where its address leads nowhere."""
    try:
        factory = spec.load()
    except (ImportError, AttributeError) as error:
        raise AssertionError(f"{spec.name}: the factory {spec.factory} cannot be loaded: {error}") from error
    assert callable(factory), f"{spec.name}: the factory {spec.factory} is a {type(factory).__name__}, not callable"
    return factory


def _plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _plain(part) for key, part in value.items())
    if isinstance(value, tuple | frozenset | list):
        return all(_plain(part) for part in value)
    return value is None or isinstance(value, str | int | float | bool)


class SpecConformance:
    """What holds for the Spec of any family; base of the families' own classes."""

    spec: ClassVar[Any]
    family: ClassVar[str] = ""  # where a family has no class of its own

    def test_the_spec_is_well_formed(self) -> None:
        """Type, name, addresses, and plain values that can be hashed."""
        check_spec(self.spec, kind=spec_class(self.family) if self.family else Spec)

    def test_the_factory_loads(self) -> None:
        """Its address leads to something that can be called."""
        check_factory(self.spec)

    def test_the_probe_answers(self) -> None:
        """None, or in words why the code cannot run here."""
        problem = self.spec.problem()
        assert problem is None or (isinstance(problem, str) and problem.strip()), f"the probe returned {problem!r}"
