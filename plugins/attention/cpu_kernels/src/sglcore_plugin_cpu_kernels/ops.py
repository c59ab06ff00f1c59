"""The compiled ops. Each equals `sglcore.layers.reference` to float32 rounding."""

from __future__ import annotations

import torch

from sglcore_plugin_cpu_kernels.build import library


class CompiledOps:
    """Replaces four of the platform's ops (see `OpsSpec.provides`); float32 only."""

    def __init__(self) -> None:
        kernels = library()
        self._rms_norm = kernels.rms_norm
        self._silu_mul = kernels.silu_mul
        self._rope = kernels.rope

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """x [..., n] -> like x, contiguous."""
        flat = x.reshape(-1, x.shape[-1])
        rows, n = flat.shape
        out = torch.empty(x.shape, dtype=x.dtype)
        self._rms_norm(flat.data_ptr(), flat.stride(0), None, weight.data_ptr(), out.data_ptr(), rows, n, eps)
        return out

    def add_rms_norm(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x [tokens, n], residual the same and contiguous; the sum is written to `residual`."""
        rows, n = x.shape
        out = torch.empty_like(residual)
        self._rms_norm(x.data_ptr(), x.stride(0), residual.data_ptr(), weight.data_ptr(), out.data_ptr(), rows, n, eps)
        return out, residual

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """gate_up [tokens, 2 n], contiguous -> [tokens, n]."""
        rows, n = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, n)
        self._silu_mul(gate_up.data_ptr(), out.data_ptr(), rows, n)
        return out

    def rope(
        self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """q [tokens, heads, dim], k [tokens, kv_heads, dim], heads contiguous; cos, sin [tokens, half], contiguous."""
        q, k = _by_token(q), _by_token(k)
        (tokens, heads, dim), kv_heads, half = q.shape, k.shape[1], cos.shape[1]
        turned_q, turned_k = q.new_empty(tokens, heads, dim), k.new_empty(tokens, kv_heads, dim)
        self._rope(
            q.data_ptr(),
            q.stride(0),
            k.data_ptr(),
            k.stride(0),
            cos.data_ptr(),
            sin.data_ptr(),
            turned_q.data_ptr(),
            turned_k.data_ptr(),
            tokens,
            heads,
            kv_heads,
            dim,
            half,
        )
        return turned_q, turned_k


def _by_token(x: torch.Tensor) -> torch.Tensor:
    """x [tokens, heads, dim] with the heads of each token side by side, copied only if they are not."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()
