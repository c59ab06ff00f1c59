"""Captured decoding steps, over a device in software: the same tokens as step by step, with one copy each way."""

from __future__ import annotations

import pytest
import torch
from sglcore_plugin_llama.model import LlamaForCausalLM

from parity.tiny import make
from runner.soft_device import DrawingOps, RowByRow, SoftLauncher
from sglcore.builtin.cpu import CpuLauncher
from sglcore.builtin.policies import FirstComeFirstServed
from sglcore.builtin.safetensors_format import SafetensorsFormat
from sglcore.contracts.models import BuildContext
from sglcore.engine.engine import Engine
from sglcore.memory.ledger import GroupPages, KVLedger
from sglcore.memory.pool import KVPool
from sglcore.memory.rows import RowTable
from sglcore.request import GenerateRequest, SamplingParams, pack_ids
from sglcore.runner import runner as runner_module
from sglcore.runner.graphs import order, sizes_up_to
from sglcore.runner.runner import ModelRunner
from sglcore.runner.transfers import Packed
from sglcore.scheduler import Limits, Scheduler

ROWS, CONTEXT, PAGE, PAGES = 6, 64, 4, 80


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path, _ = make("llama", tmp_path_factory.mktemp("models"))
    checkpoint = SafetensorsFormat().open(path)
    backend = RowByRow()
    made = LlamaForCausalLM(
        BuildContext(
            config=checkpoint.config,
            ops=DrawingOps(),
            attention=backend,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
    )
    with torch.inference_mode():
        made.load(checkpoint.tensors())
    return made, backend


def engine(model, launcher, sizes: tuple[int, ...], overlap: bool) -> tuple[Engine, ModelRunner]:
    made, backend = model
    groups = made.kv_groups()
    table = RowTable(ROWS, CONTEXT, CONTEXT // PAGE + 1, 1)
    ledger = KVLedger([GroupPages(PAGES)], PAGE, table)
    scheduler = Scheduler(ledger, table, FirstComeFirstServed(), Limits(chunk=16, vocab_size=160), (2,))
    runner = ModelRunner(
        made,
        backend,
        KVPool(groups, [PAGES], PAGE, torch.float32, torch.device("cpu")),
        groups,
        launcher,
        DrawingOps(),
        rows=ROWS,
        pages_per_row=CONTEXT // PAGE + 1,
        page_size=PAGE,
        device=torch.device("cpu"),
        eos_ids=(2,),
        spare=PAGES,
        graph_sizes=sizes,
    )
    return Engine(scheduler, runner, overlap=overlap), runner


def requests() -> list[GenerateRequest]:
    ways = [
        SamplingParams(max_new_tokens=14, temperature=0),
        SamplingParams(max_new_tokens=9, temperature=0.8, seed=5),
        SamplingParams(max_new_tokens=17, temperature=1.2, min_p=0.05, seed=6),
        SamplingParams(max_new_tokens=12, temperature=1.0, top_k=5, seed=7),
        SamplingParams(max_new_tokens=11, temperature=0, frequency_penalty=0.7),
        SamplingParams(max_new_tokens=8, temperature=0.9, top_p=0.8, seed=8),
        SamplingParams(max_new_tokens=20, temperature=0, ignore_eos=True),
    ]
    return [
        GenerateRequest(
            rid=f"r{i}",
            input_ids=pack_ids([(7 * i + j) % 150 + 3 for j in range(5 + 3 * i)]),
            sampling=way,
            return_logprob=i % 3 == 0,
        )
        for i, way in enumerate(ways)
    ]


def answers(engine: Engine) -> dict[str, tuple[list[int], list[float]]]:
    found: dict[str, tuple[list[int], list[float]]] = {}
    waiting = requests()
    while waiting or engine.has_work:
        if waiting:
            engine.add(waiting.pop(0))
        for out in engine.step():
            tokens, logprobs = found.setdefault(out.rid, ([], []))
            tokens += out.token_ids
            logprobs += [one.logprob for one in out.logprobs or ()]
    engine.scheduler.ledger.check()
    return found


@pytest.fixture
def soft(monkeypatch: pytest.MonkeyPatch) -> SoftLauncher:
    launcher = SoftLauncher()
    monkeypatch.setattr(runner_module, "transfers", lambda launcher, device: Packed(launcher))
    return launcher


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("sizes", [(), (8,), (1, 2, 3, 8)])
def test_captured_steps_give_the_same_tokens(model, soft, monkeypatch, sizes, overlap):
    captured, runner = engine(model, soft, sizes, overlap)
    while captured.prepare():
        pass
    got = answers(captured)
    replays = sum(graph.replays for graph in soft.recorded)
    assert bool(replays) == bool(sizes)
    monkeypatch.undo()
    plain, _ = engine(model, CpuLauncher(inline=True), (), False)
    want = answers(plain)
    assert {rid: tokens for rid, (tokens, _) in got.items()} == {rid: tokens for rid, (tokens, _) in want.items()}
    for rid, (_, logprobs) in want.items():
        assert got[rid][1] == pytest.approx(logprobs, abs=1e-5)
    assert runner.graphs is None or not runner.graphs.missing


def test_a_captured_step_takes_one_copy_each_way(model, soft):
    made, _ = engine(model, soft, (4,), False)
    while made.prepare():
        pass
    for i in range(3):
        made.add(
            GenerateRequest(
                rid=f"r{i}", input_ids=pack_ids([5, 6, 7]), sampling=SamplingParams(max_new_tokens=30, temperature=0)
            )
        )
    while made.scheduler.running < 3 or not all(made.scheduler.rows.length[:3] > 4):
        made.step()
    before = dict(soft.copies)
    for _ in range(5):
        made.step()
    assert {way: soft.copies[way] - before[way] for way in before} == {"up": 5, "down": 5}


def test_sizes():
    assert sizes_up_to(6) == [1, 2, 4, 6]
    assert sizes_up_to(40) == [1, 2, 4, 8, 16, 24, 32, 40]
    assert sizes_up_to(40, (3, 64, 7)) == [3, 7]
    assert order([1, 2, 4, 8, 24, 32]) == [32, 1, 2, 4, 8, 24]
