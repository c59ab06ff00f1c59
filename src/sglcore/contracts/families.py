"""The plugin families and the API version of each that this core reads.

A plugin registers in entry-point group `sglcore.<family>.v<N>`; the core reads versions N and N-1.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One kind of plugin.

    name: as in the group. version: N. oldest: lowest still read. what: for listings.
    network: faces the network; a stranger's plugin of this family is loaded only when named.
    provisional: drafted, not finished: nothing in this core uses it yet, or its API may still change within a version.
    spec: `module:class` of the family's Spec; "" where an entry point leads to a module (`hooks`).
    """

    name: str
    version: int
    oldest: int
    what: str
    network: bool = False
    provisional: bool = False
    spec: str = ""

    @property
    def groups(self) -> tuple[tuple[str, int], ...]:
        """Entry-point groups read, newest first, with their API version."""
        return tuple((f"sglcore.{self.name}.v{n}", n) for n in range(self.version, self.oldest - 1, -1))


def _family(name: str, version: int, oldest: int, spec: str, what: str, **more: bool) -> Family:
    return Family(name, version, oldest, what, spec=f"sglcore.contracts.{spec}", **more)


_ALL = (
    _family("models", 1, 1, "models:ModelSpec", "model architectures, by Hugging Face class name"),
    _family("attention", 1, 1, "attention:AttentionSpec", "attention backends"),
    _family("quant", 1, 1, "quant:QuantSpec", "quantization methods of linear layers"),
    _family("platforms", 1, 1, "platforms:PlatformSpec", "hardware platforms"),
    _family("ops", 1, 1, "ops:OpsSpec", "kernels that replace a platform's own"),
    _family("tool_parsers", 1, 1, "parsers:ToolParserSpec", "tool calls out of a model's text"),
    _family("reasoning_parsers", 1, 1, "parsers:ReasoningParserSpec", "thoughts out of a model's text"),
    _family("chat_formats", 1, 1, "chat_formats:ChatFormatSpec", "messages to prompt, in code", provisional=True),
    _family("grammars", 1, 1, "grammars:GrammarSpec", "structured output", provisional=True),
    _family("speculators", 1, 1, "speculators:SpeculatorSpec", "proposers of draft tokens", provisional=True),
    _family("kv_tiers", 1, 1, "kv_tiers:KVTierSpec", "where cached pages rest", provisional=True),
    _family("kv_transfers", 1, 1, "kv_transfers:KVTransferSpec", "pages from another engine", provisional=True),
    _family("executors", 1, 1, "executors:ExecutorSpec", "where ranks and replicas run", provisional=True),
    _family("weight_sources", 1, 1, "weights:WeightSourceSpec", "where a model name leads: directory, hub, package"),
    _family(
        "weight_formats", 1, 1, "weights:WeightFormatSpec", "how weights, config and tokenizer are read from files"
    ),
    _family("policies", 1, 1, "policies:PolicySpec", "order of the waiting queue"),
    _family("logits_processors", 1, 1, "logits_processors:LogitsProcessorSpec", "changes to logits"),
    _family("routes", 1, 1, "routes:RouteSpec", "HTTP dialects", network=True),
    _family("commands", 1, 1, "commands:CommandSpec", "CLI commands"),
    _family("metrics_sinks", 1, 1, "metrics_sinks:MetricsSinkSpec", "where metrics go", network=True, provisional=True),
    Family("hooks", 1, 1, "modules with pluggy hook implementations"),
)
FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
