"""`sglcore plugins explain MODEL`: which plugins `serve` with the same flags would take, and why. Without torch."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from sglcore.cli.command import Settings, config_command
from sglcore.engine.adjust import adjusted
from sglcore.engine.model_files import known_config
from sglcore.negotiation.choose import negotiate
from sglcore.negotiation.decision import Refused, by_family, text
from sglcore.server_config import ServerConfig


def register(group: typer.Typer, argv: list[str]) -> None:
    """Add the command to `group`."""
    config_command(group, "explain", ServerConfig, explain, argv)


def explain(
    settings: Settings, *, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Show which plugins serve a model, and the first unmet constraint of every other candidate.

    MODEL and flags are those of `serve`; MODEL may also be an architecture, such as LlamaForCausalLM. Weights are
    not downloaded.
    """
    config = adjusted(settings.config(ServerConfig), set(settings.given), settings.plugins)
    hf = known_config(config.model_path, config, settings.plugins)
    try:
        decision = negotiate(config, hf, settings.plugins)
    except Refused as refusal:
        _show({"refused": str(refusal)} if as_json else {}, by_family(refusal.verdicts), as_json)
        raise
    _show({"choice": decision.choice}, by_family(decision.verdicts), as_json)


def _show(head: dict[str, Any], table: dict[str, list[dict[str, str]]], as_json: bool) -> None:
    shown = {**head, **table}
    typer.echo(json.dumps(shown, indent=2) if as_json else text(shown))
