"""Every check of the weight source kit is seen to fail, each on a source that breaks just its promise."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sglcore.contracts.weights import WeightSourceSpec
from sglcore.errors import ConfigError
from sglcore.testing import WeightSourceConformance
from testing.faults import checks, seen

SPEC = WeightSourceSpec(name="shelf", factory="testing.test_sources:Shelf", prefixes=("shelf://",), names=("best",))


class Shelf:
    """Sound: nothing but one directory."""

    folder: Path | None = None

    def claims(self, name: str) -> bool:
        return name.startswith("shelf://") or name == "best"

    def resolve(self, name: str, *, revision: str | None, download_dir: str | None) -> Path:
        if self.folder is not None and name == "model":
            return self.folder
        raise ConfigError(f"The shelf has no model {name!r}.", remedy="Look at another.")


def suite(source: Any) -> type[WeightSourceConformance]:
    def prepare(self: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
        monkeypatch.setattr(Shelf, "folder", folder)
        return "shelf://model", folder

    return type("Suite", (WeightSourceConformance,), {"spec": SPEC, "make": lambda self: source(), "prepare": prepare})


class TestSound(suite(Shelf)):  # type: ignore[misc]
    pass


class ForgetsItsName(Shelf):
    def claims(self, name: str) -> bool:
        return name.startswith("shelf://")


class AnswersInWords(Shelf):
    def claims(self, name: str) -> Any:
        return name.partition("shelf://")[1]


class LooksAtTheDisk(Shelf):
    def claims(self, name: str) -> bool:
        return super().claims(name) or Path(name).stat().st_size > 0


class CallsHome(Shelf):
    def claims(self, name: str) -> bool:
        with suppress(OSError):
            socket.create_connection(("localhost", 9))
        return super().claims(name)


class IgnoresErrors(Shelf):
    def resolve(self, name: str, **options: Any) -> Path:
        try:
            return super().resolve(name, **options)
        except ConfigError:
            return Path("/nowhere") / "model"


class ShowsItsInside(Shelf):
    def resolve(self, name: str, **options: Any) -> Path:
        return {"model": Path("/")}[name]


class HelpsNobody(Shelf):
    def resolve(self, name: str, **options: Any) -> Path:
        raise ConfigError("No.")


class StumblesOverRevisions(Shelf):
    def resolve(self, name: str, *, revision: str | None, download_dir: str | None) -> Path:
        if revision is not None:
            raise NotImplementedError("revisions")
        return super().resolve(name, revision=revision, download_dir=download_dir)


class GivesText(Shelf):
    def resolve(self, name: str, **options: Any) -> Any:
        return str(super().resolve(name, **options))


class GivesAnother(Shelf):
    def resolve(self, name: str, **options: Any) -> Path:
        return super().resolve(name, **options).parent


FAULTS = [
    (ForgetsItsName, "test_it_claims_what_it_declares", "does not claim 'best', which it declares"),
    (AnswersInWords, "test_claiming_is_cheap_and_never_fails", "returned '', not True or False"),
    (LooksAtTheDisk, "test_claiming_is_cheap_and_never_fails", "raises FileNotFoundError"),
    (CallsHome, "test_claiming_is_cheap_and_never_fails", "uses the network"),
    (
        IgnoresErrors,
        "test_a_name_that_leads_nowhere_is_refused",
        r"returns PosixPath\('/nowhere/model'\), where nothing is",
    ),
    (ShowsItsInside, "test_a_name_that_leads_nowhere_is_refused", "raises KeyError, not ConfigError"),
    (HelpsNobody, "test_a_name_that_leads_nowhere_is_refused", "refused without a remedy: No"),
    (StumblesOverRevisions, "test_a_revision_that_does_not_exist_is_refused", "raises NotImplementedError"),
    (GivesText, "test_a_name_resolves", "returned a str, not a Path"),
    (GivesAnother, "test_a_name_resolves", "leads to .*, not to"),
]


@pytest.mark.parametrize("source, check, message", FAULTS)
def test_the_fault_is_seen(source: Any, check: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given = {"test_a_name_resolves": (tmp_path, monkeypatch)}.get(check, (tmp_path,))
    seen(suite(source), check, message, *(() if "claim" in check else given))


def test_every_check_is_seen_to_fail():
    general = {"test_the_spec_is_well_formed", "test_the_factory_loads", "test_the_probe_answers"}
    assert {check for _, check, _ in FAULTS} == set(checks(WeightSourceConformance)) - general
