"""Tables of ops that each break one promise; what is not changed is the CPU's own."""

from __future__ import annotations

from typing import Any

import torch

from sglcore.builtin.cpu_ops import CpuOps
from sglcore.layers import reference

Sound = CpuOps


class WrongInOneRow(CpuOps):
    """Splits long batches and forgets the row at the seam."""

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        out = super().rms_norm(x, weight, eps)
        if len(out) > 128:
            out[128] = x[128]
        return out


class ForgetsTheBias(CpuOps):
    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Any:
        return super().linear(weight, None)


class LastOfEquals(CpuOps):
    def argmax(self, scores: torch.Tensor) -> torch.Tensor:
        return scores.shape[-1] - 1 - scores.flip(-1).argmax(-1)


class WideResult(CpuOps):
    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        return super().silu_mul(gate_up).double()


class TurnsAllOfTheHead(CpuOps):
    def rope(self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Any:
        whole = q.shape[-1] // 2 // cos.shape[-1]
        return reference.rope(q, k, cos.repeat(1, whole), sin.repeat(1, whole))


class ChangesItsInput(CpuOps):
    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, -1)
        return torch.nn.functional.silu(gate).mul(up.mul_(1.0).add_(0.001))


class KeepsItsInput(CpuOps):
    kept: Any = None

    def embedding(self, ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        self.kept = table
        return super().embedding(ids, table)


class SpreadsNaN(CpuOps):
    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return super().rms_norm(x, weight, eps) + 0 * x.sum()


class LiesAboutInvariance(CpuOps):
    batch_invariant = True

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        return reference.silu_mul(gate_up) * (1 + 1e-6 * (len(gate_up) > 1))


class KeepsItsWordOnInvariance(CpuOps):
    batch_invariant = True

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        return reference.silu_mul(gate_up)


def stumbles(*_: Any) -> None:
    """An op of no contract."""
