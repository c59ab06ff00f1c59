"""The entry point of the plugin; imports neither torch nor triton."""

from sglcore.contracts.attention import AttentionSpec

ATTENTION = AttentionSpec(
    name="triton",
    factory="sglcore_plugin_triton_attention.backend:TritonAttention",
    summary="Paged attention in Triton: split decode, ragged prefill, latents, rope and cache write in one kernel",
    probe="sglcore_plugin_triton_attention.probe:problem",
    platforms=("cuda",),
    dtypes=("bfloat16", "float16", "float32"),
    kv_dtypes=("float8_e4m3fn", "float8_e5m2"),
    head_dims=(32, 64, 80, 96, 112, 128, 160, 192, 256),
    sliding_window=True,
    soft_cap=True,
    sinks=True,
    mla=True,
    graph_safe=True,
    rope_write=True,
    priority=10,
)
