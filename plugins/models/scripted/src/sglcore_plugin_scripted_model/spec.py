"""What this plugin registers; imports no torch."""

from __future__ import annotations

from sglcore.contracts.models import ModelSpec

SCRIPTED = ModelSpec(
    name="ScriptedForCausalLM",
    factory="sglcore_plugin_scripted_model.model:ScriptedForCausalLM",
    summary="Says what config.json tells it to; for tests of clients and parsers",
    dtypes=("float32",),
)
