"""Linear layers on the CPU: the layout of a weight is chosen by measuring, once per shape and process.

Which of torch's ways to multiply wins depends on the CPU, the BLAS build, the shape and the batch size, by
factors up to four; so nothing is assumed. A *layout* is a way to store the weight, with one or more *calls* that
can use it; each batch bucket takes the layout's fastest call. The layout with the least total cost over the
buckets wins, and only that one is kept in memory.

Measured is the CPU time of one thread: unlike the clock on the wall it hardly moves when other processes want
the same cores. What it cannot show, how a kernel spreads over threads, is declared (`Layout.scales`).

A format with another storage (a low-bit packed weight, say) joins by adding a Layout whose `store` repacks.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

BUCKETS = (1, 4, 16, 64)  # a batch uses the first bucket that holds it, larger ones the last
WEIGHTS = (4.0, 2.0, 2.0, 2.0)  # how much a bucket counts: decoding a single row most
BUDGET = 0.05  # CPU seconds after which a shape is timed twice a bucket and no more
SAMPLE_ELEMENTS = 1 << 19  # of a larger weight, rows up to this many elements are measured
SAMPLES = (14, 7, 4, 3)  # timings of each call, by bucket
COLD_BYTES = 40 << 20  # the copies of a weight in all layouts together take about this much
MAX_COPIES = 8
UNSCALED = 2.0  # cost of a layout that may not use every thread; such kernels measured up to twice as slow on two
PACK_BATCH = None  # the layout oneDNN picks when told no batch size serves single rows and long prompts alike
TOLERANCE = 1e-2  # relative error at which a call is considered broken, above float16's rounding

Call = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]  # (x, stored weight, bias)


@dataclass(frozen=True, slots=True)
class Layout:
    """store: weight [out, in] -> what is kept. calls: ways to compute x W^T + b from it.

    scales: whether the kernel is known to spread every shape over all threads, which timing on one does not show:
    oneDNN's does, a BLAS's product with a single row often stays on one.
    """

    name: str
    store: Callable[[torch.Tensor], torch.Tensor]
    calls: tuple[Call, ...]
    scales: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """The layout for a shape and, by bucket, the index of its call."""

    layout: Layout
    calls: tuple[int, ...]


class BucketLinear:
    """A linear whose call depends on the batch. Implements `contracts.LinearOp`."""

    __slots__ = ("bias", "calls", "out_features", "weight")

    def __init__(self, out_features: int, weight: torch.Tensor, bias: torch.Tensor | None, calls: tuple[Call, ...]):
        self.out_features = out_features
        self.weight = weight
        self.bias = bias
        self.calls = calls

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [tokens, in] -> [tokens, out]."""
        last = len(BUCKETS) - 1
        return self.calls[min(bisect_left(BUCKETS, x.shape[0]), last)](x, self.weight, self.bias)


class UniformLinear:
    """A linear that uses one call for every batch. Implements `contracts.LinearOp`."""

    __slots__ = ("bias", "call", "out_features", "weight")

    def __init__(self, out_features: int, weight: torch.Tensor, bias: torch.Tensor | None, call: Call):
        self.out_features = out_features
        self.weight = weight
        self.bias = bias
        self.call = call

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [tokens, in] -> [tokens, out]."""
        return self.call(x, self.weight, self.bias)


def choose_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> BucketLinear | UniformLinear:
    """weight [out, in], bias [out] or None -> the fastest linear measured for this shape; never writes to `weight`."""
    weight = weight.contiguous()
    choice = choice_for(weight)
    kept = choice.layout.store(weight)
    if len(set(choice.calls)) == 1:
        return UniformLinear(weight.shape[0], kept, bias, choice.layout.calls[choice.calls[0]])
    return BucketLinear(weight.shape[0], kept, bias, tuple(choice.layout.calls[i] for i in choice.calls))


def choice_for(weight: torch.Tensor) -> Choice:
    """The measured choice for a weight's shape, dtype and the present number of threads; cached in the process."""
    key = (tuple(weight.shape), weight.dtype, torch.get_num_threads())
    with _lock:
        if key not in _choices:
            _choices[key] = measure(weight, layouts(weight.dtype), BUDGET)
        return _choices[key]


_choices: dict[tuple[tuple[int, ...], torch.dtype, int], Choice] = {}
_lock = threading.Lock()


def layouts(dtype: torch.dtype) -> list[Layout]:
    """What can be tried here, the safe one first; packed layouts only where this torch has oneDNN for `dtype`."""
    found = [
        Layout("rows", lambda w: w, (_rows, _rows_transposed)),
        Layout("columns", lambda w: w.t().contiguous(), (_columns,)),
    ]
    if _packs(dtype):
        found.append(Layout("packed", _pack, (_packed(),), scales=True))
    return found


def measure(weight: torch.Tensor, candidates: list[Layout], budget: float) -> Choice:
    """Time every call of every layout at every bucket, with about `budget` CPU seconds in all.

    Layouts and copies take turns over more memory than the caches hold, since a model's weights come from memory.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        usable = _time_all(weight[: max(1, SAMPLE_ELEMENTS // weight.shape[1])], candidates, budget)
    finally:
        torch.set_num_threads(threads)
    fastest = [min(run.best(bucket)[0] for run in usable) for bucket in range(len(BUCKETS))]

    def cost(run: _Run) -> float:
        handicap = 1.0 if run.layout.scales or threads == 1 else UNSCALED
        return handicap * sum(w * run.best(b)[0] / fastest[b] for b, w in enumerate(WEIGHTS))

    winner = min(usable, key=cost)
    return Choice(winner.layout, tuple(winner.best(bucket)[1] for bucket in range(len(BUCKETS))))


def _time_all(weight: torch.Tensor, candidates: list[Layout], budget: float) -> list[_Run]:
    """The layouts that work here, timed."""
    end = time.thread_time() + budget
    copies = min(MAX_COPIES, -(-COLD_BYTES // (weight.numel() * weight.element_size() * len(candidates))))
    runs = [run for layout in candidates if (run := _Run(layout, weight, copies)).works]
    for bucket, samples in enumerate(SAMPLES):
        for sample in range(-1, samples):  # number -1 pays for kernels compiled on first use
            if sample >= 2 and time.thread_time() > end:
                break
            for run in runs:
                run.time(bucket, sample)
    return runs


class _Run:
    """One layout being measured."""

    def __init__(self, layout: Layout, weight: torch.Tensor, copies: int) -> None:
        self.layout = layout
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(BUCKETS[-1], weight.shape[1], generator=generator).to(weight.dtype)
        self.inputs = [rows[:n] for n in BUCKETS]
        self.times = [[float("inf")] * len(layout.calls) for _ in BUCKETS]
        try:
            self.kept = [layout.store(weight.clone()) for _ in range(copies)]
            self.works = all(self._right(call, weight) for call in layout.calls)
        except RuntimeError:  # this torch or CPU lacks the kernel
            self.works = False

    def time(self, bucket: int, sample: int) -> None:
        """Run each call at a bucket's batch size on the next copy; keep the time if it is the best so far."""
        times, x = self.times[bucket], self.inputs[bucket]
        for index, call in enumerate(self.layout.calls):
            kept = self.kept[(sample + index * len(self.kept) // 2) % len(self.kept)]
            begin = time.thread_time()
            call(x, kept, None)
            took = time.thread_time() - begin
            if sample >= 0:
                times[index] = min(times[index], took)

    def best(self, bucket: int) -> tuple[float, int]:
        """(seconds, index of the call) of the fastest call."""
        return min((seconds, index) for index, seconds in enumerate(self.times[bucket]))

    def _right(self, call: Call, weight: torch.Tensor) -> bool:
        """Whether the call computes a linear at all: a broken kernel must not win by being fast."""
        x = self.inputs[1]
        want = F.linear(x, weight).float()
        got = call(x, self.kept[0], None).float()
        return bool((got - want).abs().max() <= TOLERANCE * want.abs().max().clamp(min=1e-6))


def _rows(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return F.linear(x, weight, bias)


def _rows_transposed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    y = torch.mm(weight, x.t()).t().contiguous()
    return y if bias is None else y.add_(bias)


def _columns(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)


def _pack(weight: torch.Tensor) -> torch.Tensor:
    """Reorder for oneDNN, which is told to expect PACK_BATCH rows (None: any number)."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, PACK_BATCH)
    return packed


def _packed() -> Call:
    kernel = torch.ops.mkldnn._linear_pointwise.default

    def call(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        y: torch.Tensor = kernel(x, weight, bias, "none", [], "")
        return y

    return call


def _packs(dtype: torch.dtype) -> bool:
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return dtype == torch.float32
