"""Specs of the built-in models; torch-free, so that listing and negotiating stay cheap."""

from __future__ import annotations

from sglcore.contracts.models import ModelSpec

TRANSFORMERS = ModelSpec(
    name="transformers",
    factory="sglcore.builtin.transformers_fallback:TransformersModel",
    summary="Any Hugging Face causal language model, through Transformers' attention interface",
    needs=("sliding_window", "soft_cap", "sinks"),
    fallback=True,
    hidden_states=True,
)
