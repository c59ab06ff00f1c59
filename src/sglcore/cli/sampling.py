"""Sampling options that `generate` and `chat` share, with their native names."""

from __future__ import annotations

from typing import Annotated, Any

import typer

MaxNewTokens = Annotated[int | None, typer.Option("--max-new-tokens", min=0, help="Tokens to generate at most.")]
Temperature = Annotated[float | None, typer.Option("--temperature", min=0.0, help="0 is greedy.")]
TopP = Annotated[float | None, typer.Option("--top-p", min=0.0, max=1.0, help="Nucleus to sample from.")]
TopK = Annotated[int | None, typer.Option("--top-k", min=-1, help="Most likely tokens to sample from; -1 for all.")]
MinP = Annotated[
    float | None, typer.Option("--min-p", min=0.0, max=1.0, help="Least probability, as a share of the top one.")
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Makes the sampled tokens reproducible.")]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="Text that ends the answer; may be repeated.")]


def sampling_params(**given: Any) -> dict[str, Any]:
    """The options that were given, as sampling parameters."""
    return {name: value for name, value in given.items() if value not in (None, [])}
