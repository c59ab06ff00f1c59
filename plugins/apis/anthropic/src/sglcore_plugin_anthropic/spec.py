"""The entry point of the plugin."""

from sglcore.contracts.routes import RouteSpec

SPEC = RouteSpec(name="anthropic", factory="sglcore_plugin_anthropic.routes:routes", summary="Anthropic's /v1/messages")
