"""The entry point of the plugin."""

from sglcore.contracts.routes import RouteSpec

SPEC = RouteSpec(
    name="ollama",
    factory="sglcore_plugin_ollama.routes:routes",
    summary="Ollama's /api/chat, /api/generate and their kin",
)
