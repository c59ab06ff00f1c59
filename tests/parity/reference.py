"""The parity rule: greedy tokens equal Transformers', near-ties excused and counted.

Every position of the engine's answer is checked by forcing that answer through the reference: at each
one the engine's token must be the reference's likeliest, or within `gap` of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class Parity:
    """Positions compared, excused (near-ties where another token was taken) and wrong."""

    positions: int = 0
    excused: int = 0
    wrong: int = 0

    def __add__(self, other: Parity) -> Parity:
        return Parity(self.positions + other.positions, self.excused + other.excused, self.wrong + other.wrong)

    @property
    def share(self) -> float:
        return self.excused / max(self.positions, 1)

    def __str__(self) -> str:
        return f"{self.positions} positions, {self.excused} excused ({100 * self.share:.3f} %), {self.wrong} wrong"


@torch.inference_mode()
def compare(model: Any, prompt: list[int], answer: list[int], gap: float) -> Parity:
    """One answer against the reference model's float32 logits. [tokens] -> Parity"""
    ids = torch.tensor([prompt + answer])
    logits = model(ids).logits[0, len(prompt) - 1 : -1].float()  # [answer, vocab]
    best = logits.max(-1).values
    chosen = logits.gather(-1, torch.tensor(answer)[:, None]).squeeze(-1)
    differs = logits.argmax(-1) != torch.tensor(answer)
    near = best - chosen < gap
    return Parity(len(answer), int((differs & near).sum()), int((differs & ~near).sum()))
