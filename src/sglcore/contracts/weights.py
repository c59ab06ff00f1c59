"""Where a model comes from (weight_sources) and how its files are read (weight_formats)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sglcore.contracts.spec import Spec, optional
from sglcore.errors import ConfigError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class WeightSourceSpec(Spec):
    """A source of models. `factory() -> WeightSource`, in the parent process.

    prefixes: name prefixes that select it (`modelscope://`), stripped before `resolve`.
    names: exact model names it provides (`demo`).
    order: without either, it is asked in this order, lowest first, through `claims`.
    """

    prefixes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    order: int = 100


class WeightSource(Protocol):
    """Turns a model name into files on this machine. Called in the parent process, once, before anything is started."""

    def claims(self, name: str) -> bool:
        """Whether `name` looks like one of this source's; cheap, no network."""
        ...

    def resolve(self, name: str, *, revision: str | None, download_dir: str | None) -> Path:
        """Path of a directory or a single file. Raises ConfigError with the remedy."""
        ...

    @optional
    def resolve_config(self, name: str, *, revision: str | None, download_dir: str | None) -> Path:
        """As `resolve`, for who wants to know what the model is: its weights are not downloaded for that.

        Raises ConfigError with the remedy; so does a source that leaves it out.
        """
        raise ConfigError(
            f"The source of {name!r} cannot tell what the model is without downloading it.",
            remedy="Give its architecture, such as LlamaForCausalLM, or a path after downloading.",
        )


@dataclass(frozen=True)
class TextAssets:
    """All that the API side needs to turn text into ids and back. Read without torch.

    tokenizer_json: content of a `tokenizers` tokenizer.json, or None where only `directory` helps
        (a slow tokenizer, converted through Transformers).
    directory: where the tokenizer's files are, if they are files.
    chat_template: Jinja source; None where there is none.
    special_tokens: role -> token text, e.g. {"bos_token": "<s>", "eos_token": "</s>"}; the chat
        template sees them as variables.
    """

    tokenizer_json: bytes | None
    directory: Path | None = None
    chat_template: str | None = None
    special_tokens: dict[str, str] = field(default_factory=dict)


class Checkpoint(Protocol):
    """An opened model. Opening reads headers only; offsets are validated against file lengths.

    Any file that is truncated or unreadable raises ConfigError naming the file and the numbers.
    """

    config: dict[str, Any]  # as in a Hugging Face config.json, `architectures` included
    generation_config: dict[str, Any]  # {} where there is none

    def text_assets(self) -> TextAssets:
        """Tokenizer and chat template; called in API processes, must not import torch."""
        ...

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(Hugging Face parameter name, CPU tensor) in file order.

        Tensors are views of mapped memory or freshly dequantized; at most a few live at a time.
        The consumer copies what it keeps. Called once, in the engine process.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class WeightFormatSpec(Spec):
    """A way to read files. `factory() -> WeightFormat`, in each process that reads the model.

    suffixes: file name endings that mark it, e.g. (".gguf",).
    """

    suffixes: tuple[str, ...] = ()


class WeightFormat(Protocol):
    """Opens files as a Checkpoint. No state: an API process opens a model's text, an engine process its weights."""

    def detects(self, path: Path) -> bool:
        """Whether `path` (file or directory) is this format; looks at names and magic bytes only."""
        ...

    def open(self, path: Path) -> Checkpoint:
        """Open and validate headers. Raises ConfigError naming the file and what is wrong."""
        ...
