"""The entry point of the plugin; imports neither torch nor numpy."""

from sglcore.contracts.weights import WeightFormatSpec

SPEC = WeightFormatSpec(
    name="gguf",
    factory="sglcore_plugin_gguf.format:GGUFFormat",
    summary="GGUF files (llama, qwen2, qwen3, gemma3), dequantized to float32 while loading",
    suffixes=(".gguf",),
)
