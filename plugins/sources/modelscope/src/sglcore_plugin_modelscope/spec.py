"""The entry point of the plugin; imports no torch and no modelscope."""

from sglcore.contracts.weights import WeightSourceSpec

SPEC = WeightSourceSpec(
    name="modelscope",
    factory="sglcore_plugin_modelscope.source:ModelScopeSource",
    summary="a ModelScope model, modelscope://org/name",
    prefixes=("modelscope://",),
)
