"""WeightSourceConformance: a name leads to files, or to a ConfigError that helps; never to anything else."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sglcore.contracts.weights import WeightSource, WeightSourceSpec
from sglcore.errors import ConfigError
from sglcore.testing.specs import SpecConformance

# Names that a command line can bring; none of them leads anywhere.
STRANGE = (
    "",
    " ",
    "a b",
    "no-such-model",
    "no-such-org/no-such-model",
    "no/such/model",
    "../no-such",
    "/no/such/path",
    "~/no-such-path",
    "://",
    "x://y/z",
    "a\nb",
    "ä/日本",
    "-",
    "a" * 5000,
    "a/" + "b" * 5000,
    "a\0b",
)


class NetworkUsed(Exception):
    """A source went to the network where it must not."""


class WeightSourceConformance(SpecConformance):
    """Subclass with `spec`; the network is cut while its tests run.

    known: names it must claim, beside those that the Spec declares. Override `prepare` to show one that resolves.
    """

    spec: ClassVar[WeightSourceSpec]
    family = "weight_sources"
    known: ClassVar[tuple[str, ...]] = ()

    def make(self) -> WeightSource:
        """A fresh source."""
        source: WeightSource = self.spec.load()()
        return source

    def prepare(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path] | None:
        """Lay a model into `folder` (or a stand-in for the library behind the source) -> (name, where it leads)."""
        return None

    def test_it_claims_what_it_declares(self) -> None:
        """Its names, its prefixes, and `known`."""
        source = self.make()
        declared = [*self.spec.names, *(f"{p}org/model" for p in self.spec.prefixes), *self.known]
        for name in declared:
            assert source.claims(name) is True, f"it does not claim {name!r}, which it declares"

    def test_claiming_is_cheap_and_never_fails(self) -> None:
        """True or False for any name, without the network."""
        source = self.make()
        with no_network(NetworkUsed("claims goes to the network")):
            for name in STRANGE:
                try:
                    claimed = source.claims(name)
                except NetworkUsed as error:
                    raise AssertionError(f"claims({name[:60]!r}) uses the network") from error
                except Exception as error:
                    raise AssertionError(f"claims({name[:60]!r}) raises {type(error).__name__}: {error}") from error
                assert type(claimed) is bool, f"claims({name[:60]!r}) returned {claimed!r}, not True or False"

    def test_a_name_that_leads_nowhere_is_refused(self, tmp_path: Path) -> None:
        """Whatever it claims of these, by prefix too, ends in a path that exists or in a ConfigError with a remedy."""
        source = self.make()
        names = [name for name in STRANGE if name and source.claims(name)]
        names += [f"{prefix}{name}" for prefix in self.spec.prefixes for name in STRANGE]
        names += STRANGE if self.spec.prefixes else ()  # the prefix is stripped before `resolve`
        for name in names:
            self._resolve(source, name, None, tmp_path)

    def test_a_revision_that_does_not_exist_is_refused(self, tmp_path: Path) -> None:
        """ConfigError, or a source that knows no revisions and gives what it has."""
        source = self.make()
        for name in (*self.spec.names, *self.known):
            self._resolve(source, name, "no-such-revision", tmp_path)

    def test_a_name_resolves(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What `prepare` laid down is claimed and found, the same twice."""
        prepared = self.prepare(tmp_path, monkeypatch)
        if prepared is None:
            pytest.skip("the suite prepares no model")
        name, path = prepared
        source = self.make()
        assert source.claims(name) is True, f"it does not claim {name!r}"
        short = next((name.removeprefix(p) for p in self.spec.prefixes if name.startswith(p)), name)
        for _ in range(2):
            got = source.resolve(short, revision=None, download_dir=None)
            assert isinstance(got, Path), f"resolve returned a {type(got).__name__}, not a Path"
            assert got.resolve() == path.resolve(), f"{name!r} leads to {got}, not to {path}"

    def _resolve(self, source: WeightSource, name: str, revision: str | None, folder: Path) -> None:
        shown = f"resolve({name[:60]!r}{f', revision={revision!r}' if revision else ''})"
        with no_network(OSError("Network is unreachable")):
            try:
                got = source.resolve(name, revision=revision, download_dir=str(folder))
            except ConfigError as error:
                if not error.remedy:
                    raise AssertionError(f"{shown} is refused without a remedy: {error}") from error
                return
            except Exception as error:
                raise AssertionError(
                    f"{shown} raises {type(error).__name__}, not ConfigError: {str(error)[:200]}"
                ) from error
        assert isinstance(got, Path) and got.exists(), f"{shown} returns {got!r}, where nothing is"


@contextmanager
def no_network(error: Exception) -> Iterator[None]:
    """Every attempt to reach another machine raises `error`, and nobody waits before trying again."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket, "getaddrinfo")):
            patch.setattr(owner, name, refuse)
        patch.setattr(socket, "create_connection", refuse)
        patch.setattr(time, "sleep", lambda _: None)
        yield
