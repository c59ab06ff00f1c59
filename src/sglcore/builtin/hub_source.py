"""Models of the Hugging Face Hub, fetched once into its cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sglcore.errors import ConfigError

# Weights as safetensors, all configuration, every kind of tokenizer file; never pickled weights.
ALLOW = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "*.tiktoken",
)
# The same weights a second time, in the layout of the model's authors.
IGNORE = ("original/*", "consolidated*.safetensors", "onnx/*", "openvino/*")

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_ID = re.compile(rf"{_PART}/{_PART}")


class HubSource:
    """See sglcore.contracts.weights.WeightSource. With the network away it serves what the cache holds."""

    def claims(self, name: str) -> bool:
        """Names of the form org/name."""
        return _ID.fullmatch(name) is not None and ".." not in name and "--" not in name

    def resolve(self, name: str, *, revision: str | None, download_dir: str | None) -> Path:
        """Directory of the snapshot; `download_dir` stands for the hub's cache directory.

        Raises ConfigError with the remedy: unknown id or revision, gated, no network, no safetensors in it.
        """
        path = self._fetch(name, revision, download_dir, ALLOW)
        if not any(path.glob("*.safetensors")):
            raise ConfigError(
                f"Hub model {name!r} has no .safetensors files at its top level; pickled weights are never loaded.",
                remedy="Choose a safetensors version of it, or download its .gguf file and give that path.",
            )
        return path

    def resolve_config(self, name: str, *, revision: str | None, download_dir: str | None) -> Path:
        """As `resolve`, with config.json alone."""
        return self._fetch(name, revision, download_dir, ("config.json",))

    def _fetch(self, name: str, revision: str | None, download_dir: str | None, files: tuple[str, ...]) -> Path:
        try:
            import huggingface_hub
        except ImportError:
            raise ConfigError(
                f"Model {name!r} is a hub id, but the package huggingface_hub is not installed.",
                remedy="Run `pip install huggingface_hub`, or give a local path.",
            ) from None
        try:
            found = huggingface_hub.snapshot_download(
                name,
                revision=revision,
                cache_dir=download_dir,
                allow_patterns=list(files),
                ignore_patterns=list(IGNORE),
            )
        except Exception as error:  # the library lets errors of httpx through besides its own
            raise _explained(error, name, revision, huggingface_hub.errors) from None
        return Path(found)


def _explained(error: Exception, name: str, revision: str | None, errors: Any) -> ConfigError:
    """The hub's exception as a ConfigError. Order matters: gated is a kind of not found, offline a kind of OSError."""
    if isinstance(error, errors.GatedRepoError):
        return ConfigError(
            f"Hub model {name!r} is gated.",
            remedy="Accept its terms on its hub page and log in with `hf auth login` (or set HF_TOKEN).",
        )
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return ConfigError(
            f"The hub has no model {name!r} that this account may see, and no such path exists here.",
            remedy="Check the spelling; for a private model log in with `hf auth login` (or set HF_TOKEN).",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ConfigError(
            f"Hub model {name!r} has no revision {revision!r}.",
            remedy="Give an existing branch, tag or commit with --revision.",
        )
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled) or _is_network(error):
        return ConfigError(
            f"Hub model {name!r} (revision {revision or 'main'}) is not in the cache and the hub cannot be reached.",
            remedy="Check the network and HF_HUB_OFFLINE, point HF_ENDPOINT to a mirror, or give a local path.",
        )
    return ConfigError(
        f"Hub model {name!r} cannot be downloaded: {' '.join(str(error).split())[:300] or type(error).__name__}.",
        remedy="Check disk space and permissions of the cache (--download-dir), then try again.",
    )


def _is_network(error: Exception) -> bool:
    """httpx and socket failures: known by where they come from, to import neither."""
    return isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.split(".")[0] in (
        "httpx",
        "httpcore",
        "socket",
    )
