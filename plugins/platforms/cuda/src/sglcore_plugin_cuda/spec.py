"""The entry point of the plugin; imports no torch."""

from sglcore.contracts.platforms import PlatformSpec

CUDA = PlatformSpec(
    name="cuda",
    factory="sglcore_plugin_cuda.platform:CudaPlatform",
    summary="NVIDIA GPUs: Triton kernels, CUDA graphs, measured memory",
    probe="sglcore_plugin_cuda.probe:problem",
    device="cuda",
    priority=100,
    dtypes=("bfloat16", "float16", "float32"),
    kv_dtypes=("bfloat16", "float16", "float32", "float8_e4m3fn", "float8_e5m2"),
    compute_dtype="sglcore_plugin_cuda.probe:compute_dtype",
    tensor_parallel=True,
    graph=True,
    overlap=True,
    chunked_prefill_size=8192,
    max_running_requests=512,
    page_size=16,
    doctor="sglcore_plugin_cuda.doctor:checks",
)
