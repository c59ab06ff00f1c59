"""Models that lie on this machine already."""

from __future__ import annotations

from pathlib import Path

from sglcore.errors import ConfigError


class LocalSource:
    """See sglcore.contracts.weights.WeightSource."""

    def claims(self, name: str) -> bool:
        """A path that exists, or a name that can be nothing else than a path."""
        return name.startswith(("/", "./", "../", "~")) or name in (".", "..") or _exists(Path(name))

    def resolve(self, name: str, *, revision: str | None, download_dir: str | None) -> Path:
        """The absolute path; `revision` and `download_dir` concern downloads only.

        Raises ConfigError where nothing is there or it cannot be read.
        """
        try:
            path = Path(name).expanduser()
            return path.resolve(strict=True)
        except (OSError, ValueError, RuntimeError) as error:
            reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be used ({_reason(error)})"
            raise ConfigError(
                f"Model path {name!r} {reason}; looked from {Path.cwd()}.",
                remedy="Give an existing directory or file, or a hub id such as org/name.",
            ) from None

    def resolve_config(self, name: str, *, revision: str | None, download_dir: str | None) -> Path:
        """The same: nothing is downloaded."""
        return self.resolve(name, revision=revision, download_dir=download_dir)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long or with a null byte is no path
        return False


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
