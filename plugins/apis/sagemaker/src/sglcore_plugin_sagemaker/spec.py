"""The entry point of the plugin."""

from sglcore.contracts.routes import RouteSpec

SPEC = RouteSpec(
    name="sagemaker", factory="sglcore_plugin_sagemaker.routes:routes", summary="SageMaker's /ping and /invocations"
)
