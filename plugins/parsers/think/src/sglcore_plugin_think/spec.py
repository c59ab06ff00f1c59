"""The entry points of the plugin."""

from sglcore.contracts.parsers import ReasoningParserSpec

MARKERS = ("<think>", "</think>")

DEEPSEEK_R1 = ReasoningParserSpec(
    name="deepseek-r1",
    factory="sglcore_plugin_think.parser:always",
    summary="begins inside the thought, <think> or not, until </think>",
    markers=MARKERS,
)
QWEN3 = ReasoningParserSpec(
    name="qwen3",
    factory="sglcore_plugin_think.parser:ThinkParser",
    summary="a thought between <think> and </think>, if there is one",
    markers=MARKERS,
    suits=(r"</think>",),  # the prompt says whether the template has opened or closed the thought
)
QWEN3_THINKING = ReasoningParserSpec(
    name="qwen3-thinking",
    factory="sglcore_plugin_think.parser:always",
    summary="the same as deepseek-r1",
    markers=MARKERS,
)
