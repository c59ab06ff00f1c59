"""The entry points of the plugin; imports no torch."""

from sglcore.contracts.attention import AttentionSpec
from sglcore.contracts.ops import OpsSpec

PROBE = "sglcore_plugin_cpu_kernels.build:problem"

ATTENTION = AttentionSpec(
    name="cpu-kernels",
    factory="sglcore_plugin_cpu_kernels.attention:CompiledAttention",
    summary="Paged attention in C: decode reads pages where they lie, prompts pack them once",
    probe=PROBE,
    platforms=("cpu",),
    dtypes=("float32",),
    sliding_window=True,
    priority=10,
)

OPS = OpsSpec(
    name="cpu-kernels",
    factory="sglcore_plugin_cpu_kernels.ops:CompiledOps",
    summary="RMSNorm, rope and SwiGLU in C, one call each",
    probe=PROBE,
    platforms=("cpu",),
    dtypes=("float32",),
    provides=("rms_norm", "add_rms_norm", "silu_mul", "rope"),
    priority=10,
)
