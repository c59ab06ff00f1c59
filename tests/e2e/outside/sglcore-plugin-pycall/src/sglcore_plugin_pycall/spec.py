"""The entry point; imports no code of the parser."""

from sglcore.contracts.parsers import ToolParserSpec

SPEC = ToolParserSpec(
    name="pycall",
    factory="sglcore_plugin_pycall.parser:PyCallParser",
    summary='[name(key="value"), other()]',
    markers=("[", "(", "=", ",", ")", "]"),
    suits=(r"\[func_name1?\(params_name1=",),
)
