"""Three layers of attention that know where in a script a row is.

All that a step needs to know of a row's past it reads through the cache, as any model does: prompts may be cut into
chunks, share cached prefixes, be retracted and computed again, and a row's branches say the same.

    layer 0  which tokens stood before this one: head h looks h + 1 positions back
    layer 1  which line of the script was chosen last
    layer 2  where the answer began, and which line was chosen there

Positions and token ids are written in bits, so that one key stands out from all others by more than a float32 softmax
can tell from certainty.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from sglcore.contracts.models import BuildContext, ForwardInputs, KVGroup
from sglcore.errors import ConfigError
from sglcore.layers.attention import Attention
from sglcore.layers.loading import Slot, copy_into, load, load_dummy
from sglcore_plugin_scripted_model.script import Script

HEAD_DIM = 64
POSITION_BITS = 16
ID_BITS = 20
LINE_BITS = 9
SCALE = 32.0  # between the best key and the next lie 1 or 2 of it: e^-32 is nothing in float32
LEVELS = "head.levels"
DUMMY = ((0.0, 1.0), (30.0, 31.0))  # what dummy levels lie between


class ScriptedForCausalLM:
    """Implements `contracts.Model`. Its one tensor, `head.levels` [2]: the logit of other tokens, and of the next."""

    def __init__(self, ctx: BuildContext) -> None:
        if ctx.tp_size > 1:
            raise ConfigError(f"A script is not cut in {ctx.tp_size}.", remedy="Start with --tp-size 1.")
        self.script = script = Script.read(ctx.config)
        self.vocab_size = script.vocab
        self.heads = max(script.width - 1, 1)
        self.layers = [Attention(ctx, layer, scale=SCALE) for layer in range(3)]
        self.levels = torch.zeros(2, dtype=torch.float32, device=ctx.device)

        self._table(ctx.device)
        self.powers = 2 ** torch.arange(HEAD_DIM, device=ctx.device)
        self.back = torch.arange(1, self.heads + 1, device=ctx.device)

    def _table(self, device: torch.device) -> None:
        """The script as tensors: patterns [1 + lines that are chosen, width], answers' tokens one after another."""

        def whole(values: Iterable[int]) -> torch.Tensor:
            return torch.tensor([*values], dtype=torch.int64, device=device)

        script, lines = self.script, self.script.lines
        chosen = [index for index, line in enumerate(lines) if line.after]
        patterns = [script.begin, *(lines[index].after for index in chosen)]
        self.patterns = torch.stack([whole(_last_first(pattern, script.width)) for pattern in patterns])
        self.chosen = whole(chosen)
        self.at_once = whole(line.at_once for line in lines).bool()
        self.loops = whole(line.loop for line in lines).bool()
        self.counts = whole(len(line.tokens) for line in lines)
        self.starts = self.counts.cumsum(0) - self.counts
        self.tokens = whole(token for line in lines for token in line.tokens)
        self.first = next((index for index, line in enumerate(lines) if not line.after), len(lines))

    def kv_groups(self) -> tuple[KVGroup, ...]:
        """One group of three layers with a single head each."""
        return (KVGroup(layers=(0, 1, 2), kv_heads=1, head_dim=HEAD_DIM),)

    def load(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Consume the checkpoint once. Raises ConfigError naming missing or unknown tensors."""
        load(tensors, {LEVELS: Slot((2,), copy_into(self.levels))})

    def load_dummy(self, seed: int) -> None:
        """Levels that still tell the next token from the others."""
        for index, span in enumerate(DUMMY):
            load_dummy({LEVELS: Slot((1,), copy_into(self.levels[index : index + 1]), span=span)}, seed)

    def forward(self, inputs: ForwardInputs) -> torch.Tensor:
        """-> logits float32 [samples, vocab], all on one token each."""
        recent = self._recent(inputs)
        found = ((recent[:, None] == self.patterns) | (self.patterns < 0)).all(-1)  # [tokens, 1 + patterns]
        begins, named = found[:, 0], found[:, 1:]
        hit = named.any(1)
        line = self._line(named, hit)
        begins = begins | (hit & self._of(self.at_once, line))
        valid, line = self._latest(1, hit, line, LINE_BITS, inputs)
        line = torch.where(valid, line, self.first)
        known = line < len(self.script.lines)
        place = (line << POSITION_BITS) | inputs.positions
        valid, place = self._latest(2, begins & known, place, LINE_BITS + POSITION_BITS, inputs)
        following = self._next(valid, place >> POSITION_BITS, inputs.positions - (place & (2**POSITION_BITS - 1)))
        if inputs.sample_index is not None:
            following = following.index_select(0, inputs.sample_index)
        logits = self.levels[0].repeat(following.shape[0], self.vocab_size)
        logits[torch.arange(following.shape[0], device=logits.device), following] = self.levels[1]
        return logits

    def _recent(self, inputs: ForwardInputs) -> torch.Tensor:
        """Token ids int64 [tokens, width], each token's own first; -2 before the beginning."""
        wanted = inputs.positions[:, None] - self.back  # [tokens, heads]
        q = self._padded(self._signs(wanted.clamp(min=0), POSITION_BITS))
        k = self._padded(self._signs(inputs.positions, POSITION_BITS)[:, None])
        v = self._padded(self._signs(inputs.ids, ID_BITS)[:, None])
        before = self._number(self.layers[0](q, k, v, inputs), ID_BITS)
        before = before.masked_fill(wanted < 0, -2)
        return torch.cat((inputs.ids[:, None], before), 1)[:, : self.script.width]

    def _line(self, named: torch.Tensor, hit: torch.Tensor) -> torch.Tensor:
        """The first line each token chooses, int64 [tokens]; any where it chooses none."""
        if not named.shape[1]:
            return torch.zeros_like(hit, dtype=torch.int64)
        return self.chosen[named.to(torch.int64).argmax(1)]

    def _of(self, table: torch.Tensor, line: torch.Tensor) -> torch.Tensor:
        return table[line.clamp(max=len(self.script.lines) - 1)]

    def _latest(
        self, layer: int, flag: torch.Tensor, value: torch.Tensor, bits: int, inputs: ForwardInputs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Whether there was a flagged position, bool [tokens], and the value at the latest of them, int64 [tokens].

        A flagged key's score is its position + 1, any other's 0.
        """
        ones = (inputs.positions[:, None] + 1) // self.powers[:POSITION_BITS] % 2
        k = self._padded((ones * flag[:, None]).float()[:, None])
        v = self._padded(self._signs(torch.where(flag, 2 * value + 1, 0), bits + 1)[:, None])
        q = self.powers[:POSITION_BITS].float().expand(flag.shape[0], self.heads, -1)
        seen = self._number(self.layers[layer](self._padded(q), k, v, inputs)[:, 0], bits + 1)
        return seen % 2 == 1, seen >> 1

    def _next(self, valid: torch.Tensor, line: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """The token that follows, int64 [tokens]: eos where no answer is under way or it is over."""
        count = self._of(self.counts, line)
        looping = self._of(self.loops, line)
        going = valid & ((step < count) | looping)
        index = self._of(self.starts, line) + torch.where(looping, step % count, torch.minimum(step, count - 1))
        return torch.where(going, self.tokens[torch.where(going, index, 0)], self.script.eos)

    def _signs(self, numbers: torch.Tensor, bits: int) -> torch.Tensor:
        """Bits as 1 and -1, float32 [..., bits]."""
        return (numbers[..., None] // self.powers[:bits] % 2 * 2 - 1).float()

    def _number(self, signs: torch.Tensor, bits: int) -> torch.Tensor:
        """The reverse of `_signs`, int64 [...]."""
        return ((signs[..., :bits] > 0) * self.powers[:bits]).sum(-1)

    def _padded(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(x, (0, HEAD_DIM - x.shape[-1])).contiguous()


def _last_first(pattern: tuple[int, ...], width: int) -> list[int]:
    """The pattern backwards; -1 where anything may stand."""
    return [*reversed(pattern), *([-1] * (width - len(pattern)))]
