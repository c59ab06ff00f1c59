"""Specs of the built-in compute plugins; torch-free, so that listing and negotiating stay cheap."""

from __future__ import annotations

from sglcore.contracts.attention import AttentionSpec
from sglcore.contracts.platforms import PlatformSpec

CPU = PlatformSpec(
    name="cpu",
    factory="sglcore.builtin.cpu:CpuPlatform",
    summary="Any CPU that torch runs on; layouts of linear layers are chosen by measuring",
    device="cpu",
    priority=0,
    dtypes=("float32", "bfloat16", "float16", "float64"),
    kv_dtypes=("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"),
    compute_dtype="sglcore.builtin.cpu_features:compute_dtype",
    tensor_parallel=True,
    overlap=False,  # the host's cores are the device's: there is nothing to hide work behind
    chunked_prefill_size=512,
    max_running_requests=64,
)

TORCH_ATTENTION = AttentionSpec(
    name="torch",
    factory="sglcore.builtin.torch_attention:TorchAttention",
    summary="Paged attention from torch's own operators, on any device",
    dtypes=("float32", "bfloat16", "float16"),
    kv_dtypes=("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"),
    sliding_window=True,
    soft_cap=True,
    sinks=True,
    mla=True,
)
