"""The entry points of the plugin; imports no torch."""

from dataclasses import replace

from sglcore.contracts.attention import AttentionSpec

ATTENTION = AttentionSpec(
    name="flashinfer",
    factory="sglcore_plugin_flashinfer.attention:FlashInferAttention",
    summary="FlashInfer: paged prefill (FlashAttention 2 and 3) and decode for NVIDIA GPUs",
    probe="sglcore_plugin_flashinfer.probe:problem",
    platforms=("cuda",),
    dtypes=("bfloat16", "float16"),
    head_dims=(64, 128, 256),
    sliding_window=True,
    soft_cap=True,
    graph_safe=True,
    rope_write=True,
    priority=20,
    decode_priority=5,  # planning on the host costs more than its kernels gain
)

# The same code, for models that cache latents: a name of its own, since its module comes on its own and may be missing.
LATENT = replace(
    ATTENTION,
    name="flashinfer-mla",
    summary="FlashInfer: multi-head latent attention (FlashAttention 2 and 3) for NVIDIA GPUs",
    probe="sglcore_plugin_flashinfer.probe:latent_problem",
    mla=True,
    latent_dims=(576,),
    priority=15,
)
