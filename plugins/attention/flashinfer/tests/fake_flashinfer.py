"""A flashinfer that records what it is asked, and computes with torch on the CPU from the very buffers it was given."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import torch


class Wrapper:
    """What both wrappers share: the plan they were given, and attention the long way from the page indices."""

    def __init__(self, workspace: torch.Tensor) -> None:
        self.workspace = workspace
        self.plans: list[SimpleNamespace] = []

    def reset_workspace_buffer(self, floats: torch.Tensor, ints: torch.Tensor) -> None:
        self.workspace, self.ints = floats, ints

    def _attend(self, q, pool, out, q_indptr, indptr, indices, last):
        plan = self.plans[-1]
        keys, values = pool
        assert (q.shape[1], keys.shape[2], q.shape[2], keys.shape[1]) == plan.shape
        assert q.dtype == plan.options["q_data_type"] and keys.dtype == plan.options["kv_data_type"]
        for row in range(len(last)):
            pages = indices[indptr[row] : indptr[row + 1]].long()
            length = (len(pages) - 1) * keys.shape[1] + int(last[row])
            k, v = (x[pages].flatten(0, 1)[:length].float() for x in (keys, values))
            queries = q[q_indptr[row] : q_indptr[row + 1]].float()
            out[q_indptr[row] : q_indptr[row + 1]] = attention(queries, k, v, plan.options).to(out.dtype)
        return out


def attention(q, k, v, options):
    """q [queries, heads, dim], k, v [length, kv_heads, dim]; window and cap as FlashInfer means them."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * options["sm_scale"]
    if cap := options["logits_soft_cap"]:
        scores = cap * torch.tanh(scores / cap)
    position = torch.arange(len(k) - len(q), len(k))[:, None]
    key = torch.arange(len(k))
    hidden = key > position
    if options["window_left"] >= 0:
        hidden |= key < position - options["window_left"]
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, float("-inf")).softmax(-1), v)


class BatchDecodeWithPagedKVCacheWrapper(Wrapper):
    made: list[BatchDecodeWithPagedKVCacheWrapper] = []

    def __init__(self, workspace, layout, *, use_cuda_graph, use_tensor_cores, **buffers):
        super().__init__(workspace)
        assert layout == "NHD" and use_cuda_graph
        self.use_tensor_cores = use_tensor_cores
        self.indptr = buffers["paged_kv_indptr_buffer"]
        self.indices = buffers["paged_kv_indices_buffer"]
        self.last = buffers["paged_kv_last_page_len_buffer"]
        assert len(self.indptr) == len(self.last) + 1
        self.fast = 0
        type(self).made.append(self)

    def plan(self, indptr, indices, last, heads, kv_heads, head_dim, page_size, **options):
        assert len(last) == len(self.last) and len(indices) <= len(self.indices)
        assert indptr.device.type == "cpu" and int(indptr[-1]) <= len(indices)
        shape = (heads, kv_heads, head_dim, page_size)
        self.plans.append(SimpleNamespace(shape=shape, indptr=indptr.clone(), last=last.clone(), options=options))
        self.indptr.copy_(indptr)
        self.last.copy_(last)
        self.indices[: len(indices)].copy_(indices)

    def run(self, q, pool, *, out):
        return self._attend(q, pool, out, range(len(q) + 1), self.indptr, self.indices, self.last)


def fast_decode_plan(wrapper, indptr, indices, last, heads, kv_heads, head_dim, page_size, **options):
    """Leaves the device's buffers alone, as FlashInfer's does."""
    assert wrapper.plans, "a fast plan needs a full one before it"
    wrapper.fast += 1
    shape = (heads, kv_heads, head_dim, page_size)
    wrapper.plans.append(SimpleNamespace(shape=shape, indptr=indptr.clone(), last=last.clone(), options=options))


class BatchPrefillWithPagedKVCacheWrapper(Wrapper):
    made: list[BatchPrefillWithPagedKVCacheWrapper] = []

    def __init__(self, workspace, layout, *, backend):
        super().__init__(workspace)
        assert layout == "NHD"
        self.backend = backend
        type(self).made.append(self)

    def plan(self, q_indptr, indptr, indices, last, heads, kv_heads, head_dim, page_size, *, causal, **options):
        assert causal
        shape = (heads, kv_heads, head_dim, page_size)
        counts = q_indptr[1:] - q_indptr[:-1]
        assert options["max_token_per_sequence"] == int(counts.max())
        assert torch.equal(options["seq_lens"], (indptr[1:] - indptr[:-1] - 1) * page_size + last)
        assert len(indices) == int(indptr[-1])
        self.plans.append(SimpleNamespace(shape=shape, options=options, q_indptr=q_indptr.clone()))
        self.given = (q_indptr.clone(), indptr.clone(), indices, last.clone())

    def run(self, q, pool, *, out):
        return self._attend(q, pool, out, *self.given)


class BatchPrefillWithRaggedKVCacheWrapper(Wrapper):
    made: list[BatchPrefillWithRaggedKVCacheWrapper] = []

    def __init__(self, workspace, layout, *, backend):
        super().__init__(workspace)
        assert layout == "NHD"
        self.backend = backend
        type(self).made.append(self)

    def plan(self, q_indptr, kv_indptr, heads, kv_heads, head_dim, *, causal, **options):
        assert causal and torch.equal(q_indptr, kv_indptr)
        self.plans.append(SimpleNamespace(shape=(heads, kv_heads, head_dim), options=options, indptr=q_indptr.clone()))

    def run(self, q, k, v, *, out):
        plan = self.plans[-1]
        assert (q.shape[1], k.shape[1], q.shape[2]) == plan.shape and k.shape == v.shape
        for begin, end in pairwise(plan.indptr.tolist()):
            part = slice(begin, end)
            out[part] = attention(q[part].float(), k[part].float(), v[part].float(), plan.options).to(out.dtype)
        return out


class BatchMLAPagedAttentionWrapper:
    made: list[BatchMLAPagedAttentionWrapper] = []

    def __init__(self, workspace, *, backend):
        self.workspace, self.backend = workspace, backend
        self.plans: list[SimpleNamespace] = []
        type(self).made.append(self)

    def plan(self, q_indptr, indptr, indices, lengths, heads, rank, rope, page, causal, scale, dtype, kv_dtype):
        assert {x.dtype for x in (q_indptr, indptr, indices, lengths)} == {torch.int32}
        assert q_indptr.device.type == indptr.device.type == lengths.device.type == "cpu"
        assert int(indptr[-1]) <= len(indices) and len(q_indptr) == len(indptr) == len(lengths) + 1
        assert torch.equal((lengths + page - 1) // page, indptr[1:] - indptr[:-1])
        numbers = SimpleNamespace(q_indptr=q_indptr.clone(), indptr=indptr.clone(), lengths=lengths.clone())
        shape = (heads, rank, rope, page, dtype, kv_dtype)
        self.plans.append(SimpleNamespace(numbers=numbers, shape=shape, causal=causal, scale=scale, indices=indices))

    def run(self, q, rope, latents, turned, *, out):
        plan, n = self.plans[-1], self.plans[-1].numbers
        assert (*q.shape[1:], rope.shape[2], latents.shape[1], q.dtype, latents.dtype) == plan.shape
        assert latents.shape[:2] == turned.shape[:2] and latents.stride() == turned.stride()
        wide, options = torch.cat((q, rope), 2).float(), {"logits_soft_cap": 0.0, "window_left": -1}
        for row, (begin, end) in enumerate(pairwise(n.q_indptr.tolist())):
            assert plan.causal or end - begin == 1
            pages = plan.indices[n.indptr[row] : n.indptr[row + 1]].long()
            c, r = (x[pages].flatten(0, 1)[: n.lengths[row]].float() for x in (latents, turned))
            k = torch.cat((c, r), 1)[:, None]
            found = attention(wide[begin:end], k, c[:, None], {**options, "sm_scale": plan.scale})
            out[begin:end] = found.to(out.dtype)
        return out


def fake(aot_dir: str = "/nowhere", jit_dir: str = "/nowhere") -> SimpleNamespace:
    """A fresh module."""

    class Decode(BatchDecodeWithPagedKVCacheWrapper):
        made = []

    class Prefill(BatchPrefillWithPagedKVCacheWrapper):
        made = []

    class Ragged(BatchPrefillWithRaggedKVCacheWrapper):
        made = []

    class Latents(BatchMLAPagedAttentionWrapper):
        made = []

    env = SimpleNamespace(FLASHINFER_AOT_DIR=aot_dir, FLASHINFER_JIT_DIR=jit_dir)
    jit = SimpleNamespace(
        env=env,
        get_batch_decode_uri=lambda *args: "decode",
        get_batch_mla_uri=lambda backend, *args: f"mla-{backend}",
        get_batch_prefill_uri=lambda backend, *args: f"prefill-{backend}",
    )
    return SimpleNamespace(
        BatchDecodeWithPagedKVCacheWrapper=Decode,
        BatchPrefillWithPagedKVCacheWrapper=Prefill,
        BatchPrefillWithRaggedKVCacheWrapper=Ragged,
        BatchMLAPagedAttentionWrapper=Latents,
        fast_decode_plan=fast_decode_plan,
        jit=jit,
        __version__="0.6.14",
    )


class TorchKernels:
    """The plugin's kernels in torch, without a look at anything on the host that the device would have to give."""

    def __init__(self) -> None:
        self.filled = 0

    def fill_indices(self, kv_lens, page_table, page_size, indices):
        self.filled += 1
        pages = (kv_lens + page_size - 1) // page_size
        rows = [page_table[r, :n] for r, n in enumerate(pages.tolist())]
        flat = torch.cat(rows)
        indices[: len(flat)] = flat

    def write_kv(self, k, v, keys, values, slots):
        keys.flatten(0, 1)[slots] = k
        values.flatten(0, 1)[slots] = v

    def write_latent(self, latent, rope, pool, slots):
        pool.flatten(0, 2)[slots] = torch.cat((latent, rope), 1)

    def rope_write(self, qkv, cos, sin, heads, pool, slots, norms, eps, *, keep=False):
        from sglcore.layers import reference

        kv_heads = (qkv.shape[1] - heads) // 2
        q, k, v = qkv.split([heads, kv_heads, kv_heads], 1)
        q = q if norms[0] is None else reference.rms_norm(q, norms[0], eps)
        k = k if norms[1] is None else reference.rms_norm(k, norms[1], eps)
        q, k = reference.rope(q, k, cos, sin)
        self.write_kv(k, v, *pool, slots)
        if keep:
            qkv[:, heads : heads + kv_heads] = k
        return q
