"""On a GPU with FlashInfer: a captured decode step, planned again and replayed over rows that grow, and speed of plans.

pytest -m gpu plugins/attention/flashinfer/tests/test_on_the_card.py -s
"""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from sglcore_plugin_flashinfer import probe

from sglcore.contracts.attention import AttentionBatch
from sglcore.contracts.models import KVGroup

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available() or probe.problem() is not None, reason="no GPU or no flashinfer"),
]
KV_HEADS, DIM, PAGE, WIDTH = 8, 128, 16, 128
SPARE = 0  # the page of rows that only pad


class Pool:
    """Keys and values of two layers, random everywhere."""

    def __init__(self, pages: int) -> None:
        shape = (pages, PAGE, KV_HEADS, DIM)
        self._layers = [tuple(torch.randn(shape, device="cuda").bfloat16() for _ in "kv") for _ in range(2)]

    def layer(self, index):
        return self._layers[index]


class Static:
    """The tensors of a captured step of `rows` rows, the last one for padding, and how they move on."""

    def __init__(self, lengths: list[int]) -> None:
        self.rows = len(lengths) + 1
        self.lengths = np.array([*lengths, 0], np.int32)
        table = 1 + np.random.default_rng(0).permutation(self.rows * WIDTH).reshape(self.rows, WIDTH)
        table[-1] = SPARE
        self.table = table.astype(np.int32)
        group = KVGroup(layers=(0, 1), kv_heads=KV_HEADS, head_dim=DIM)
        ones = np.ones(self.rows, np.int32)
        self.batch = AttentionBatch(
            q_lens=torch.ones(self.rows, dtype=torch.int32, device="cuda"),
            kv_lens=torch.zeros(self.rows, dtype=torch.int32, device="cuda"),
            page_table=torch.zeros((self.rows, WIDTH), dtype=torch.int32, device="cuda"),
            slots=torch.zeros(self.rows, dtype=torch.int64, device="cuda"),
            max_q_len=1,
            max_kv_len=WIDTH * PAGE,
            page_size=PAGE,
            group=group,
            q_lens_host=ones,
            kv_lens_host=ones,
        )

    def grow(self, count: int) -> AttentionBatch:
        """The next step after `count` more tokens a row."""
        self.lengths[:-1] += count
        self.lengths[-1] = 1
        last = self.lengths - 1
        slots = self.table[np.arange(self.rows), last // PAGE].astype(np.int64) * PAGE + last % PAGE
        self.batch.kv_lens.copy_(torch.from_numpy(self.lengths))
        self.batch.page_table.copy_(torch.from_numpy(self.table))
        self.batch.slots.copy_(torch.from_numpy(slots))
        self.batch.kv_lens_host = self.lengths.copy()
        return self.batch


def right(q: torch.Tensor, pool: Pool, static: Static, row: int, scale: float) -> torch.Tensor:
    """Row's attention in float64."""
    length = int(static.lengths[row])
    pages = torch.from_numpy(static.table[row, : -(-length // PAGE)]).long().cuda()
    k, v = (x[pages].flatten(0, 1)[:length].double() for x in pool.layer(1))
    group = q.shape[1] // KV_HEADS
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.einsum("hd,khd->hk", q[row].double(), k) * scale
    return torch.einsum("hk,khd->hd", scores.softmax(-1), v)


def attention():
    from sglcore_plugin_flashinfer.attention import FlashInferAttention

    return FlashInferAttention()


@pytest.mark.parametrize("heads", [32, 8])
@torch.inference_mode()
def test_a_replay_after_refresh_is_the_eager_step(heads):
    torch.manual_seed(0)
    backend, eager = attention(), attention()
    static = Static([1000, 37, 1, 1500, 15])
    pool = Pool(static.rows * WIDTH + 1)
    q = torch.randn(static.rows, heads, DIM, device="cuda").bfloat16()
    k, v = (torch.randn(static.rows, KV_HEADS, DIM, device="cuda").bfloat16() for _ in "kv")
    scale = DIM**-0.5

    def work(of, meta):
        for layer in range(2):
            of.write_kv(layer, k, v, pool, meta)
            out = of.attend(layer, q, pool, meta, scale=scale)
        return out

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        meta = backend.plan((static.grow(1),))
        work(backend, meta)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(capture_error_mode="thread_local")
        out = work(backend, meta)
        graph.capture_end()
        for count in (1, 1, 14, 200, 1):
            batch = static.grow(count)
            backend.refresh(meta, (batch,))
            q.normal_()
            graph.replay()
            stream.synchronize()
            got, want = out.clone(), work(eager, eager.plan((batch,)))
            stream.synchronize()
            torch.testing.assert_close(got, want, atol=2e-2, rtol=2e-2)
            for row in range(static.rows):
                torch.testing.assert_close(got[row].double(), right(q, pool, static, row, scale), atol=3e-2, rtol=3e-2)


@torch.inference_mode()
def test_refresh_waits_for_nothing():
    """While the device is busy for long, plans return; their time is printed."""
    backend, static = attention(), Static([1000] * 255)
    pool = Pool(static.rows * WIDTH + 1)
    q = torch.randn(static.rows, 32, DIM, device="cuda").bfloat16()
    k, v = (torch.randn(static.rows, KV_HEADS, DIM, device="cuda").bfloat16() for _ in "kv")
    meta = backend.plan((static.grow(1),))
    backend.write_kv(0, k, v, pool, meta)
    backend.attend(0, q, pool, meta, scale=0.1)
    batch = static.grow(1)
    backend.refresh(meta, (batch,))
    torch.cuda.synchronize()
    torch.cuda._sleep(1_000_000_000)  # cycles: about half a second
    began = time.perf_counter()
    backend.refresh(meta, (batch,))
    took = time.perf_counter() - began
    busy = not torch.cuda.current_stream().query()
    torch.cuda.synchronize()
    print(f"refresh of 256 rows: {took * 1e6:.0f} us on the host")
    assert busy and took < 0.01
