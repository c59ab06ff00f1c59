"""`sglcore generate`: answer prompts in this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Annotated, Any, Protocol

import msgspec
import typer

from sglcore.cli.command import Settings, config_command
from sglcore.cli.logs import set_up_logs
from sglcore.cli.progress import StartDisplay
from sglcore.cli.sampling import MaxNewTokens, MinP, Seed, Stop, Temperature, TopK, TopP, sampling_params
from sglcore.config import EngineConfig
from sglcore.errors import ConfigError

if TYPE_CHECKING:
    from sglcore.llm import LLM


class Answers(Protocol):
    """The part of `LLM` that is used here."""

    def generate(self, prompts: list[str], sampling_params: dict[str, Any]) -> list[dict[str, Any]]: ...

    def stream(self, prompt: str, sampling_params: dict[str, Any]) -> Iterator[dict[str, Any]]: ...


def register(app: typer.Typer, argv: list[str]) -> None:
    """Add the command to `app`."""
    config_command(app, "generate", EngineConfig, generate, argv)


def generate(
    settings: Settings,
    *,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="Prompt; may be repeated. Default: standard input.")
    ] = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    seed: Seed = None,
    stop: Stop = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a prompt, with counts.")] = False,
    stream: Annotated[
        bool | None, typer.Option("--stream/--no-stream", help="Print as it comes; default for a single prompt.")
    ] = None,
) -> None:
    """Answer prompts in this process, without a server. The text goes to standard output, the rest to stderr."""
    params = sampling_params(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        seed=seed,
        stop=stop,
    )
    prompts = prompt or [_standard_input()]
    with open_llm(settings) as llm:
        if as_json:
            print_json(llm, prompts, params, sys.stdout)
        elif len(prompts) == 1 and stream is not False:
            print_stream(llm, prompts[0], params, sys.stdout)
        else:
            print_texts(llm, prompts, params, sys.stdout)


def open_llm(settings: Settings) -> LLM:
    """The offline engine, its start shown on stderr. Raises ConfigError or PluginError."""
    config = settings.config(EngineConfig)
    set_up_logs("warning" if "log_level" not in settings.given else config.log_level)
    settings.plugins.report()
    with StartDisplay(sys.stderr) as display:
        from sglcore.llm import LLM

        flags = settings.values()
        return LLM(flags.pop("model_path"), tell=display.tell, plugin_set=settings.plugins, **flags)


def print_json(llm: Answers, prompts: list[str], params: dict[str, Any], out: IO[str]) -> None:
    """One line of JSON for each prompt: prompt, text, output_ids, meta_info."""
    for prompt, answer in zip(prompts, llm.generate(prompts, params), strict=True):
        out.write(msgspec.json.encode({"prompt": prompt, **answer}).decode() + "\n")


def print_texts(llm: Answers, prompts: list[str], params: dict[str, Any], out: IO[str]) -> None:
    """The answers once all are there, with an empty line between two."""
    out.write("\n\n".join(answer["text"] for answer in llm.generate(prompts, params)) + "\n")


def print_stream(llm: Answers, prompt: str, params: dict[str, Any], out: IO[str]) -> None:
    """The answer as it comes."""
    written = 0
    for answer in llm.stream(prompt, params):
        out.write(answer["text"][written:])
        out.flush()
        written = len(answer["text"])
    out.write("\n")


def _standard_input() -> str:
    if sys.stdin.isatty():
        raise ConfigError("There is no prompt.", remedy="Give one with --prompt, or pipe it in.")
    return sys.stdin.read()
