"""Whether the residual stream's sum is better taken in the product's epilogue, and what the weights' values do to a
product's speed. `python benchmarks/gpu/residual.py`; microseconds, best of several runs of a step's layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from sglcore_plugin_cuda.kernels import norm

TOKENS, HIDDEN, INNER, LAYERS = 8192, 4096, 14336, 8


def timed(work: Callable[[int], object], rounds: int = 6) -> float:
    """Microseconds a call, the best of `rounds` passes over the layers; the clock settles in the first."""
    best = 1e9
    for _ in range(rounds):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(4):
            for layer in range(LAYERS):
                work(layer)
        torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - began) / (4 * LAYERS) * 1e6)
    return best


@torch.inference_mode()
def main() -> None:
    """Print it all."""
    print(torch.cuda.get_device_name(), torch.__version__)
    gain = torch.ones(HIDDEN, device="cuda", dtype=torch.bfloat16)
    residual = torch.randn(TOKENS, HIDDEN, device="cuda").bfloat16()
    for into in (HIDDEN, INNER):
        x = torch.randn(TOKENS, into, device="cuda").bfloat16()
        weights = [(torch.randn(HIDDEN, into, device="cuda") * 0.02).bfloat16() for _ in range(LAYERS)]

        def apart(layer: int, x: torch.Tensor = x, weights: list[torch.Tensor] = weights) -> None:
            norm.add_rms_norm(F.linear(x, weights[layer]), residual, gain, 1e-5)

        def together(layer: int, x: torch.Tensor = x, weights: list[torch.Tensor] = weights) -> None:
            residual.addmm_(x, weights[layer].t())
            norm.rms_norm(residual, gain, 1e-5)

        print(f"{into} -> {HIDDEN}: sum in the norm {timed(apart):.1f}, in the product {timed(together):.1f}")
    x = torch.randn(TOKENS, HIDDEN, device="cuda").bfloat16()
    shape = (2 * INNER, HIDDEN)
    kinds = {
        "normal, 0.02": lambda: torch.randn(shape, device="cuda") * 0.02,
        "uniform, 0.001": lambda: torch.rand(shape, device="cuda") * 2e-3 - 1e-3,
    }
    for name, make in kinds.items():
        weights = [make().bfloat16() for _ in range(LAYERS)]
        took = timed(lambda layer, weights=weights: F.linear(x, weights[layer]))
        print(f"gate-up, weights {name}: {took:.1f} us, {2 * TOKENS * shape[0] * HIDDEN / took / 1e6:.0f} TFLOP/s")


if __name__ == "__main__":
    main()
