"""FlashInfer in the place of Triton's attention in `attention.py`: the same shapes, the same clock.

    python benchmarks/gpu/attention_flashinfer.py            # decode, and prompts with each kernel
    python benchmarks/gpu/attention_flashinfer.py fa2        # prompts with this one alone

Figures of a graph: the time of `refresh`, which the host spends before each replay, is printed beside them.
"""

from __future__ import annotations

import logging
import os
import sys
import time

import attention  # the script beside this one
import torch
from sglcore_plugin_flashinfer.attention import PREFILL, FlashInferAttention


def refresh_time(rows: int, context: int = 1104, count: int = 50) -> float:
    """Microseconds on the host of one `refresh` of a decode step."""
    setting = attention.Setting(rows, 1, context)
    meta = setting.backend.plan((setting.batch,))
    setting.backend.attend(0, setting.q, setting.pool, meta, scale=attention.SCALE)
    setting.backend.refresh(meta, (setting.batch,))
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(count):
        setting.backend.refresh(meta, (setting.batch,))
    return (time.perf_counter() - began) / count * 1e6


@torch.inference_mode()
def main() -> None:
    """Print it all."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    attention.TritonAttention = FlashInferAttention  # type: ignore[misc, assignment]
    print(torch.cuda.get_device_name(), torch.__version__)
    kernels = sys.argv[1:] or ["fa2", "fa3"]
    if not sys.argv[1:]:
        attention.decodes(plain=True)
        for rows in (1, 16, 64, 256):
            print(f"refresh of {rows} rows: {refresh_time(rows):.0f} us")
    for kernel in kernels:
        os.environ[PREFILL] = kernel
        print(kernel)
        attention.prefills(plain=True)


if __name__ == "__main__":
    main()
