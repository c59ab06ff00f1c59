"""Models of ModelScope, fetched once into its cache."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sglcore.errors import ConfigError

PREFIX = "modelscope://"
ALLOW = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")


class ModelScopeSource:
    """See sglcore.contracts.weights.WeightSource."""

    def claims(self, name: str) -> bool:
        """Names that start with modelscope://."""
        return name.startswith(PREFIX)

    def resolve(self, name: str, *, revision: str | None, download_dir: str | None) -> Path:
        """Directory of the downloaded model; `name` with or without the prefix.

        Raises ConfigError with the remedy: package missing, malformed or unknown id, no network.
        """
        return self._fetch(name, revision, download_dir, ALLOW)

    def resolve_config(self, name: str, *, revision: str | None, download_dir: str | None) -> Path:
        """As `resolve`, with config.json alone."""
        return self._fetch(name, revision, download_dir, ("config.json",))

    def _fetch(self, name: str, revision: str | None, download_dir: str | None, files: tuple[str, ...]) -> Path:
        model = name.removeprefix(PREFIX)
        if not _ID.fullmatch(model):
            raise ConfigError(
                f"{model!r} is not a ModelScope model id.", remedy=f"Write it as {PREFIX}organisation/name."
            )
        download = _snapshot_download()
        try:
            found = download(model, revision=revision, cache_dir=download_dir, allow_patterns=list(files))
        except Exception as error:  # the library raises bare Exception and requests' errors alike
            raise _explained(error, model, revision) from None
        return Path(found)


def _snapshot_download() -> Callable[..., Any]:
    try:
        from modelscope import snapshot_download
    except ImportError as error:
        raise ConfigError(
            f"The package modelscope cannot be imported: {error}.", remedy="Run `pip install modelscope`."
        ) from None
    download: Callable[..., Any] = snapshot_download
    return download


def _explained(error: Exception, model: str, revision: str | None) -> ConfigError:
    wanted = f"{model!r} (revision {revision or 'default'})"
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = " ".join(str(error).split())[:300] or type(error).__name__
    if kinds & {"NotExistError", "NoValidRevisionError"} or _status(error) == 404:
        return ConfigError(f"ModelScope has no model {wanted}: {text}.", remedy="Check the id and --revision.")
    if kinds & {"NotLoginException", "AuthenticationError", "PermissionDeniedError"} or _status(error) in (401, 403):
        return ConfigError(
            f"ModelScope model {wanted} is not open to this account: {text}.",
            remedy="Accept its terms on its page and run `modelscope login`.",
        )
    if kinds & {"ConnectionError", "TimeoutError", "Timeout"}:
        return ConfigError(
            f"ModelScope cannot be reached for model {wanted}: {text}.",
            remedy="Check the network and proxy settings, or give a local path.",
        )
    return ConfigError(
        f"ModelScope model {wanted} cannot be downloaded: {text}.",
        remedy="Check disk space and permissions of the cache (--download-dir), then try again.",
    )


def _status(error: Exception) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
