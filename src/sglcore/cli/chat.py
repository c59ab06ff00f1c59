"""`sglcore chat`: a conversation in the terminal."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer

from sglcore.cli.chat_backends import Backend, LocalBackend, RemoteBackend
from sglcore.cli.command import Settings, config_command
from sglcore.cli.conversation import Conversation
from sglcore.cli.sampling import MaxNewTokens, MinP, Seed, Stop, Temperature, TopK, TopP, sampling_params
from sglcore.config import EngineConfig


def register(app: typer.Typer, argv: list[str]) -> None:
    """Add the command to `app`."""
    config_command(app, "chat", EngineConfig, chat, argv)


def chat(
    settings: Settings,
    *,
    url: Annotated[
        str | None, typer.Option("--url", help="Talk to this server; MODEL is then a name that it serves.")
    ] = None,
    api_key: Annotated[str | None, typer.Option("--api-key", help="Its key; default: SGLCORE_API_KEY.")] = None,
    system: Annotated[str, typer.Option("--system", help="System text to begin with.")] = "",
    max_new_tokens: MaxNewTokens = 1024,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    seed: Seed = None,
    stop: Stop = None,
) -> None:
    """Talk to a model in the terminal: one started in this process, or one that a server (--url) has."""
    sampling = sampling_params(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        seed=seed,
        stop=stop,
    )
    backend = _backend(settings, url, api_key or os.environ.get("SGLCORE_API_KEY"), sampling)
    with suppress(ImportError):
        importlib.import_module("readline")  # importing it gives `input` line editing and history
    try:
        Conversation(backend, input, sys.stdout, system).run()
    finally:
        backend.close()


def _backend(settings: Settings, url: str | None, api_key: str | None, sampling: dict[str, Any]) -> Backend:
    if url is not None:
        named = settings.given.get("model_path")
        return RemoteBackend(url, str(named.value) if named else "", api_key, sampling)
    from sglcore.cli.generate import open_llm

    llm = open_llm(settings)
    return LocalBackend(llm, str(settings.given["model_path"].value), sampling)
