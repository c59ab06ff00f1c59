"""A model built in shards by real processes of one process group: what they answer, to compare with the whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sglcore.builtin.cpu import CpuPlatform
from sglcore.builtin.torch_attention import TorchAttention
from sglcore.contracts.execution import Rendezvous
from sglcore.contracts.models import BuildContext
from sglcore.contracts.spec import Spec
from sglcore.errors import ConfigError
from sglcore.testing.harness import ModelHarness

TIME_LIMIT = 120.0  # seconds for all ranks together
Checkpoint = Sequence[tuple[str, torch.Tensor]]


def sharded_logits(
    spec: Spec, config: dict[str, Any], checkpoint: Checkpoint, prompt: Sequence[int], size: int = 2
) -> list[torch.Tensor]:
    """Logits float32 [tokens, vocab] of `prompt` by rank, its last token decoded on a paged prefix.

    Starts `size` gloo processes on the CPU. Raises ConfigError with the model's own words where it refuses to be
    split, AssertionError with a rank's last words where it fails.
    """
    with tempfile.TemporaryDirectory(prefix="sglcore-shards-") as name:
        folder = Path(name)
        save_file({key: tensor.contiguous().clone() for key, tensor in checkpoint}, folder / "whole.safetensors")
        job = {"factory": spec.factory, "config": config, "prompt": list(prompt), "size": size}
        (folder / "job.json").write_text(json.dumps(job))
        command = [sys.executable, "-m", "sglcore.testing.tensor_parallel", name]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
        ranks = [
            subprocess.Popen([*command, str(rank)], env=environment, stderr=subprocess.PIPE, text=True)
            for rank in range(size)
        ]
        try:
            words = [rank.communicate(timeout=TIME_LIMIT)[1] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        refusal = folder / "refusal"
        if refusal.exists():
            raise ConfigError(refusal.read_text())
        for number, rank in enumerate(ranks):
            assert rank.returncode == 0, f"rank {number} failed: {words[number][-1500:]}"
        return [load_file(folder / f"{rank}.safetensors")["logits"] for rank in range(size)]


def _main(folder: Path, rank: int) -> None:
    job = json.loads((folder / "job.json").read_text())
    platform = CpuPlatform()
    attention = TorchAttention()
    group = platform.join(Rendezvous(rank, job["size"], str(folder / "store")))
    context = BuildContext(
        config=job["config"],
        ops=platform.ops(),
        attention=attention,
        dtype=torch.float32,
        device=platform.device,
        tp_rank=rank,
        tp_size=job["size"],
        all_reduce=group.all_reduce,
    )
    try:
        model = Spec(name="", factory=job["factory"]).load()(context)
    except ConfigError as error:
        (folder / "refusal").write_text(str(error))
        return
    model.load(iter(load_file(folder / "whole.safetensors").items()))
    prompt = job["prompt"]
    harness = ModelHarness(model, attention, pages=2 * len(prompt), page_size=4)
    row = harness.row(len(prompt))
    logits = [harness.run([(row, part)])[0] for part in (prompt[:-1], prompt[-1:])]
    save_file({"logits": torch.cat(logits)}, folder / f"{rank}.safetensors")
    group.close()  # its threads end now, and not while the interpreter goes down around them


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]))
