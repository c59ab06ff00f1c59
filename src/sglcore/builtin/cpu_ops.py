"""Ops for the CPU. A decode step runs each of these tens of times on a few rows, so what counts is the number of
torch calls; on a prompt, the number of passes over memory. Both are kept low, in that order."""

from __future__ import annotations

import math
import weakref

import torch
import torch.nn.functional as F

from sglcore.builtin.cpu_linear import choose_linear
from sglcore.contracts.ops import LinearOp
from sglcore.layers.reference import rotate

FEW_ROWS = 32  # up to here the number of calls counts more than the passes over memory


class CpuOps:
    """The CPU kernel table. Implements `contracts.Ops`."""

    graph_safe = False
    batch_invariant = False  # oneDNN and BLAS pick their blocking by batch size

    def __init__(self) -> None:
        self._root_eps: dict[float, torch.Tensor] = {}
        self._tables: StepTables | None = None

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> LinearOp:
        """weight [out, in], bias [out] or None, in the layout measured fastest here for this shape."""
        return choose_linear(weight, bias)

    def embedding(self, ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """ids int64 [tokens], table [vocab, hidden] -> [tokens, hidden]."""
        return table.index_select(0, ids)

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """x / sqrt(mean(x^2) + eps) * weight.

        sqrt(mean(x^2) + eps) = hypot(|x| / sqrt(n), sqrt(eps)): one pass over x for the statistics instead of the
        usual square, mean, add, rsqrt.
        """
        root = self._root_eps.get(eps)
        if root is None:
            root = self._root_eps[eps] = torch.tensor(math.sqrt(eps), dtype=torch.float32)
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        rms = size.mul_(x.shape[-1] ** -0.5).hypot_(root)  # float32 [..., 1]
        if x.dtype == torch.float32:
            return torch.div(x, rms).mul_(weight)
        return torch.div(x, rms).to(x.dtype).mul_(weight)

    def add_rms_norm(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(norm(x + residual), x + residual); the sum is written to `residual`."""
        residual.add_(x)
        return self.rms_norm(residual, weight, eps), residual

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """gate_up [tokens, 2 n] -> silu(first half) * second half."""
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate).mul_(up)

    def argmax(self, scores: torch.Tensor) -> torch.Tensor:
        """The index of each row's largest score; numpy's search is ten times torch's on a CPU."""
        return torch.from_numpy(scores.numpy().argmax(-1))

    def rope(
        self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotate halves. Heads that stand side by side, as slices of one fused projection do, turn in one go."""
        heads = q.shape[1]
        joint = side_by_side(q, k)
        if joint is None or q.dtype != torch.float32 or 2 * cos.shape[1] != q.shape[2]:
            return rotate(q, cos, sin), rotate(k, cos, sin)
        if q.shape[0] > FEW_ROWS:
            turned = rotate_whole(joint, cos, sin)
        else:
            if self._tables is None or not self._tables.made_from(cos, sin):
                self._tables = StepTables(cos, sin)
            turned = self._tables.rotate(joint)
        return turned[:, :heads], turned[:, heads:]


def side_by_side(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor | None:
    """[tokens, heads of q and k, dim] over the same memory where k's heads follow q's, else None."""
    tokens, heads, dim = q.shape
    stride = q.stride()
    if stride != k.stride() or stride[1] != dim or q.dtype != k.dtype:
        return None
    if k.data_ptr() - q.data_ptr() != heads * dim * q.element_size():
        return None
    if q.untyped_storage().data_ptr() != k.untyped_storage().data_ptr():
        return None  # two allocations that happen to touch
    return q.as_strided((tokens, heads + k.shape[1], dim), stride)


def rotate_whole(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x float32 [tokens, heads, dim], all of dim rotary; three passes and one allocation."""
    tokens, heads, dim = x.shape
    halves = x.view(tokens, heads, 2, dim // 2)
    s = sin.unsqueeze(1)
    out = halves * cos.view(tokens, 1, 1, dim // 2)
    first, second = out.unbind(2)
    a, b = halves.unbind(2)
    first.addcmul_(b, s, value=-1)
    second.addcmul_(a, s)
    return out.view(tokens, heads, dim)


class StepTables:
    """cos and sin of a step in the shape that turns a few rows with the fewest calls, made once for all layers.

    Holds no reference to the tables it was made from, only a weak one to tell whether they are still the same.
    """

    __slots__ = ("_of_cos", "_of_sin", "cos", "sin")

    def __init__(self, cos: torch.Tensor, sin: torch.Tensor) -> None:
        self._of_cos, self._of_sin = weakref.ref(cos), weakref.ref(sin)
        self.cos = torch.cat((cos, cos), 1).unsqueeze(1)  # [tokens, 1, dim]
        self.sin = torch.stack((-sin, sin), 1).unsqueeze(1)  # [tokens, 1, 2, dim / 2]

    def made_from(self, cos: torch.Tensor, sin: torch.Tensor) -> bool:
        """Whether these are the tables it was made from."""
        return self._of_cos() is cos and self._of_sin() is sin

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        """x [tokens, heads, dim], all of dim rotary: x * cos + (halves swapped) * (-sin, sin)."""
        tokens, heads, dim = x.shape
        swapped = x.view(tokens, heads, 2, dim // 2).flip(2).mul_(self.sin).view(tokens, heads, dim)
        return swapped.addcmul_(x, self.cos)
