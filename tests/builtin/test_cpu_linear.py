from __future__ import annotations

import time

import pytest
import torch

from sglcore.builtin import cpu_linear
from sglcore.builtin.cpu_linear import BUCKETS, BucketLinear, Layout, UniformLinear, choice_for, choose_linear, measure
from sglcore.layers import reference


@pytest.fixture(autouse=True)
def fresh_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_linear, "_choices", {})


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [False, True])
def test_every_layout_and_call_computes_the_linear(dtype: torch.dtype, bias: bool) -> None:
    weight, shift = normal(37, 48, dtype=dtype), normal(37, dtype=dtype) if bias else None
    found = cpu_linear.layouts(dtype)
    assert found[0].name == "rows"
    for layout in found:
        kept = layout.store(weight)
        for call in layout.calls:
            for tokens in (1, 3, 17, 200):
                x = normal(tokens, 48, dtype=dtype)
                got = call(x, kept, shift)
                want = reference.linear(x.double(), weight.double(), None if shift is None else shift.double())
                assert got.shape == (tokens, 37)
                assert got.stride(-1) == 1
                assert got.dtype == dtype
                torch.testing.assert_close(got.double(), want, rtol=2e-2, atol=1e-4 if dtype == torch.float32 else 0.2)


def test_the_chosen_linear_is_right_at_every_bucket_edge() -> None:
    weight, bias = normal(40, 24), normal(40)
    op = choose_linear(weight.clone(), bias)
    assert op.out_features == 40
    for tokens in sorted({n + d for n in BUCKETS for d in (0, 1)} | {300}):
        x = normal(tokens, 24)
        torch.testing.assert_close(op(x), reference.linear(x, weight, bias), rtol=1e-4, atol=1e-4)


def test_a_weight_that_is_a_view_is_accepted_and_not_written_to() -> None:
    whole = normal(24, 40)
    before = whole.clone()
    x = normal(5, 24)
    torch.testing.assert_close(choose_linear(whole.t(), None)(x), x @ whole, rtol=1e-4, atol=1e-4)
    assert torch.equal(whole, before)


def test_a_shape_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(cpu_linear, "measure", lambda w, *rest: calls.append(tuple(w.shape)) or measure(w, *rest))
    for shape in ((16, 8), (16, 8), (8, 16), (16, 8)):
        choose_linear(normal(*shape), None)
    assert calls == [(16, 8), (8, 16)]


def slow(call: cpu_linear.Call, sizes: tuple[int, ...]) -> cpu_linear.Call:
    """`call`, wasting CPU time at the given batch sizes."""

    def wasteful(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        end = time.thread_time() + (2e-3 if x.shape[0] in sizes else 0.0)
        while time.thread_time() < end:
            pass
        return call(x, weight, bias)

    return wasteful


def quick(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.nn.functional.linear(x, weight, bias)


def test_the_fastest_layout_wins_and_each_bucket_takes_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    good = Layout("good", lambda w: w, (slow(quick, BUCKETS[:2]), slow(quick, BUCKETS[2:])))
    bad = Layout("bad", lambda w: w, (slow(quick, BUCKETS),))
    choice = measure(normal(32, 32), [bad, good], 1.0)
    assert choice.layout.name == "good"
    assert choice.calls == (1, 1, 0, 0)
    monkeypatch.setattr(cpu_linear, "layouts", lambda dtype: [bad, good])
    op = choose_linear(normal(32, 32), None)
    assert isinstance(op, BucketLinear)
    assert op.calls[0] is good.calls[1]
    assert op.calls[-1] is good.calls[0]


def test_a_layout_that_fails_or_computes_nonsense_never_wins() -> None:
    def broken(weight: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such kernel")

    def wrong(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return x.new_zeros(x.shape[0], weight.shape[0])

    honest = Layout("honest", lambda w: w, (slow(quick, BUCKETS),))
    found = measure(
        normal(32, 32), [honest, Layout("absent", broken, (quick,)), Layout("wrong", lambda w: w, (wrong,))], 1.0
    )
    assert found.layout.name == "honest"


def test_without_onednn_there_is_still_a_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert [layout.name for layout in cpu_linear.layouts(torch.float32)] == ["rows", "columns"]
    weight, x = normal(20, 12), normal(3, 12)
    torch.testing.assert_close(choose_linear(weight, None)(x), x @ weight.t(), rtol=1e-4, atol=1e-5)


def test_a_layout_with_one_call_is_called_without_looking_at_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_linear, "layouts", lambda dtype: [Layout("only", lambda w: w, (quick,))])
    assert isinstance(choose_linear(normal(8, 8), None), UniformLinear)


def test_measuring_leaves_the_number_of_threads_and_stays_within_its_budget() -> None:
    threads = torch.get_num_threads()
    weight = normal(3072, 576)
    begin = time.thread_time()
    choice_for(weight)
    assert torch.get_num_threads() == threads
    # the budget bounds sampling; what is done anyway (two timings of each call, copies) may take as long again
    assert time.thread_time() - begin < 10 * cpu_linear.BUDGET
