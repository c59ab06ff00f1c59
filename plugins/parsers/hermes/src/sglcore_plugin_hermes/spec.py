"""The entry points of the plugin: one parser, by the names users know it by."""

from sglcore.contracts.parsers import ToolParserSpec

FACTORY = "sglcore_plugin_hermes.parser:HermesParser"
MARKERS = ("<tool_call>", "</tool_call>")

HERMES = ToolParserSpec(
    name="hermes",
    factory=FACTORY,
    summary="JSON between <tool_call> tags: Hermes, Qwen 2.5 and 3",
    markers=MARKERS,
    starts=MARKERS[:1],
    # The tag with a JSON object named in it; other formats use the same tag around other things.
    suits=(r"<tool_call>(?:\\n|\s)*\{+(?:\\?[\"'])(?:name|arguments)\\?[\"']",),
)
QWEN25 = ToolParserSpec(
    name="qwen25", factory=FACTORY, summary="the same as hermes", markers=MARKERS, starts=MARKERS[:1]
)
QWEN = ToolParserSpec(name="qwen", factory=FACTORY, summary="the same as hermes", markers=MARKERS, starts=MARKERS[:1])
