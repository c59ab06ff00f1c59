"""The calls that OpsConformance makes: of each op the shapes, inputs as layers give them, and the right result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from sglcore.layers import reference

ROWS = (1, 2, 3, 7, 33, 130)
EPS = 1e-5
Tensors = dict[str, torch.Tensor]
Results = tuple[torch.Tensor, ...]


@dataclass
class Call:
    """One op with its inputs. by_row: those whose first dimension are the rows. owned: those that the op may keep."""

    op: str
    dtype: str
    rows: int
    arguments: Tensors
    run_op: Callable[[Any, Tensors], Results] = field(repr=False)
    right: Callable[[Tensors], Results] = field(repr=False)
    by_row: tuple[str, ...] = ()
    may_change: tuple[str, ...] = ()
    owned: tuple[str, ...] = ()
    result_dtype: torch.dtype = torch.float32
    exact: bool = False

    def run(self, table: Any) -> Results:
        """What the op gives. Inputs that it may change are cloned, those that it may own too."""
        given = {n: t.clone() if n in (*self.may_change, *self.owned) else t for n, t in self.arguments.items()}
        with torch.inference_mode():
            return self.run_op(table, given)

    def reference(self) -> Results:
        """The right result, computed in float32."""
        wide = {n: t.float() if t.is_floating_point() else t for n, t in self.arguments.items()}
        return self.right(wide)

    def kept(self) -> Tensors:
        """Inputs that must stay as they are."""
        return {n: t for n, t in self.arguments.items() if n not in self.may_change}

    def poison(self, row: int) -> bool:
        """Put NaN into a row of each floating input by row; False where there is none."""
        found = [self.arguments[n] for n in self.by_row if self.arguments[n].is_floating_point()]
        for tensor in found:
            tensor[row] = float("nan")
        return bool(found)

    def only(self, row: int) -> Call:
        """The same call with one row."""
        parts = {n: t[row : row + 1] if n in self.by_row else t for n, t in self.arguments.items()}
        return replace(self, arguments=parts, rows=1)

    def __str__(self) -> str:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in self.arguments.items())
        return f"{self.op} in {self.dtype} ({shapes})"


class Maker:
    """Random inputs of one dtype on one device, the same in every run."""

    def __init__(self, dtype: str, device: str) -> None:
        self.name, self.dtype, self.device = dtype, getattr(torch, dtype), device
        self.random = torch.Generator().manual_seed(11)

    def normal(self, *shape: int, spread: float = 1.0, wide: bool = False) -> torch.Tensor:
        """Normal values; float32 if `wide`, else the dtype of the call."""
        values = torch.randn(*shape, generator=self.random) * spread
        return values.to(self.device, torch.float32 if wide else self.dtype)

    def whole(self, high: int, *shape: int) -> torch.Tensor:
        """int64 below `high`."""
        return torch.randint(0, high, shape, generator=self.random).to(self.device)

    def call(self, op: str, rows: int, arguments: Tensors, run: Any, right: Any, **more: Any) -> Call:
        """A call of this dtype."""
        return Call(op, self.name, rows, arguments, run, right, **{"result_dtype": self.dtype, **more})


def calls_of(op: str, dtype: str, device: str) -> Iterator[Call]:
    """All calls to try for one op, made anew."""
    return CASES[op](Maker(dtype, device))


def linear(make: Maker) -> Iterator[Call]:
    """With and without a bias, wide and narrow; the op prepares its own copy of the weight."""

    def run(table: Any, given: Tensors) -> Results:
        op = table.linear(given["weight"], given.get("bias"))
        assert op.out_features == given["weight"].shape[0], f"out_features is {op.out_features}"
        return (op(given["x"]),)

    for rows in ROWS:
        for width, out, biased in ((48, 80, True), (96, 7, False), (33, 64, True)):
            given = {"x": make.normal(rows, width), "weight": make.normal(out, width, spread=width**-0.5)}
            given |= {"bias": make.normal(out)} if biased else {}
            right = lambda g: (reference.linear(g["x"], g["weight"], g.get("bias")),)  # noqa: E731
            yield make.call("linear", rows, given, run, right, by_row=("x",), owned=("weight", "bias"))


def embedding(make: Maker) -> Iterator[Call]:
    """Ids that repeat, the first and the last of the table."""
    for rows in ROWS:
        ids = make.whole(50, rows)
        ids[0], ids[-1] = 49, 0
        given = {"ids": ids, "table": make.normal(50, 24)}
        run = lambda table, g: (table.embedding(g["ids"], g["table"]),)  # noqa: E731
        right = lambda g: (reference.embedding(g["ids"], g["table"]),)  # noqa: E731
        yield make.call("embedding", rows, given, run, right, by_row=("ids",), exact=True)


def rms_norm(make: Maker) -> Iterator[Call]:
    """Rows, and heads of rows; tiny rows, where eps counts; slices of a wider tensor."""
    run = lambda table, g: (table.rms_norm(g["x"], g["weight"], EPS),)  # noqa: E731
    right = lambda g: (reference.rms_norm(g["x"], g["weight"], EPS),)  # noqa: E731
    for rows in ROWS:
        for shape in ((48,), (100,), (4, 24)):
            x = make.normal(rows, *shape, spread=3.0)
            x[0] *= 1e-3
            given = {"x": x, "weight": make.normal(shape[-1])}
            yield make.call("rms_norm", rows, given, run, right, by_row=("x",))
        given = {"x": make.normal(rows, 80)[:, :48], "weight": make.normal(48)}
        yield make.call("rms_norm", rows, given, run, right, by_row=("x",))


def add_rms_norm(make: Maker) -> Iterator[Call]:
    """The sum may be written to the residual; the result counts, not where it lies."""
    run = lambda table, g: tuple(table.add_rms_norm(g["x"], g["residual"], g["weight"], EPS))  # noqa: E731
    for rows in ROWS:
        for width in (48, 100):
            given = {
                "x": make.normal(rows, width),
                "residual": make.normal(rows, width, spread=2.0),
                "weight": make.normal(width),
            }
            right = lambda g: reference.add_rms_norm(g["x"], g["residual"], g["weight"], EPS)  # noqa: E731
            more: dict[str, Any] = {"by_row": ("x", "residual"), "may_change": ("residual",)}
            yield make.call("add_rms_norm", rows, given, run, right, **more)


def silu_mul(make: Maker) -> Iterator[Call]:
    """Large values too, where a careless sigmoid overflows."""
    run = lambda table, g: (table.silu_mul(g["gate_up"]),)  # noqa: E731
    right = lambda g: (reference.silu_mul(g["gate_up"]),)  # noqa: E731
    for rows in ROWS:
        for width in (64, 50):
            gate_up = make.normal(rows, 2 * width, spread=4.0)
            gate_up[0, 0] = -200.0
            yield make.call("silu_mul", rows, {"gate_up": gate_up}, run, right, by_row=("gate_up",))


def argmax(make: Maker) -> Iterator[Call]:
    """float32 scores whatever the dtype; of equals the first; minus infinity where tokens are forbidden."""
    run = lambda table, g: (table.argmax(g["scores"])[:, None],)  # noqa: E731

    def right(given: Tensors) -> Results:
        scores = given["scores"]
        places = torch.arange(scores.shape[-1], device=scores.device).expand_as(scores)
        best = scores == scores.amax(-1, keepdim=True)
        return (places.masked_fill(~best, scores.shape[-1]).amin(-1)[:, None],)

    for rows in ROWS:
        scores = make.normal(rows, 101, wide=True)
        scores[0, [7, 50]] = 99.0
        scores[-1, :90] = float("-inf")
        more: dict[str, Any] = {"by_row": ("scores",), "exact": True, "result_dtype": torch.int64}
        yield make.call("argmax", rows, {"scores": scores}, run, right, **more)


def rope(make: Maker) -> Iterator[Call]:
    """All of a head and a part of it; heads as slices of one fused projection, and on their own."""
    run = lambda table, g: tuple(table.rope(g["q"], g["k"], g["cos"], g["sin"]))  # noqa: E731
    right = lambda g: reference.rope(g["q"], g["k"], g["cos"], g["sin"])  # noqa: E731
    for rows in ROWS:
        for half, fused in ((16, True), (8, True), (16, False)):
            heads = make.normal(rows, 10, 32)
            q, k = heads[:, :6], heads[:, 6:8]
            angles = make.normal(rows, half, spread=3.0, wide=True)
            given = {"q": q if fused else q.clone(), "k": k if fused else k.clone()}
            given |= {"cos": angles.cos(), "sin": angles.sin()}
            yield make.call("rope", rows, given, run, right, by_row=("q", "k", "cos", "sin"))


def draw(make: Maker) -> Iterator[Call]:
    """Greedy rows, hot ones and such with min_p, side by side; seeds of 64 bits; whether a row is finite."""

    def told(results: Results) -> Results:
        return results[0][:, None], results[1].to(torch.int64)[:, None]

    names = ("logits", "temperature", "seed", "position", "min_p")
    run = lambda table, g: told(table.draw(*(g[n] for n in names)))  # noqa: E731
    right = lambda g: told(reference.draw(*(g[n] for n in names)))  # noqa: E731
    for rows in ROWS:
        for vocab in (101, 3000):
            logits, kind = make.normal(rows, vocab, spread=3.0, wide=True), torch.arange(rows) % 4
            logits[0, vocab // 2] = float("inf")
            given = {
                "logits": logits,
                "temperature": torch.tensor([0.0, 0.7, 1.0, 1.5])[kind].to(make.device),
                "seed": make.whole(1 << 62, rows) - (1 << 61),
                "position": make.whole(100_000, rows),
                "min_p": torch.tensor([0.0, 0.0, 0.3, 0.05])[kind].to(make.device),
            }
            more: dict[str, Any] = {"by_row": names, "exact": True, "result_dtype": torch.int64}
            yield make.call("draw", rows, given, run, right, **more)


def penalise(make: Maker) -> Iterator[Call]:
    """Rows with penalties, with biases, with both and with none, whose slots lie in any order; in place, to the bit."""

    def shaped(op: Any, given: Tensors) -> Results:
        slot, biased = given["slot"], given["biased"]
        index = torch.nonzero((slot > 0) | (biased > 0))[:, 0].flip(0)  # the others are not named
        places = torch.stack((index, slot[index], biased[index]))
        op(given["logits"], places, given["rules"][index], given["counts"], given["prompt"], given["bias"])
        return (given["logits"],)

    run = lambda table, g: shaped(table.penalise, g)  # noqa: E731
    right = lambda g: shaped(reference.penalise, {**g, "logits": g["logits"].clone()})  # noqa: E731
    for rows in ROWS:
        for vocab in (101, 3000):
            line = torch.arange(rows)
            rules = make.normal(rows, 3, wide=True)
            rules[:, 2] = 1.0
            rules[line % 3 == 0, 2] = 1.3
            rules[line % 4 == 1, :2] = 0.0
            counts = (make.whole(12, rows + 1, vocab) - 9).clamp(min=0).to(torch.int32)
            prompt, bias = make.whole(4, rows + 1, vocab) == 0, make.normal(rows + 1, vocab, wide=True)
            bias[make.whole(3, rows + 1, vocab) > 0] = 0.0
            for table in (counts, prompt, bias):
                table[0] = 0
            given = {
                "logits": make.normal(rows, vocab + 3, spread=4.0, wide=True)[:, :vocab],
                "slot": torch.where(line % 5 == 2, 0, rows - line).to(make.device),
                "biased": torch.where(line % 2 == 0, 0, 1 + (line + 1) % rows).to(make.device),
                "rules": rules,
                "counts": counts,
                "prompt": prompt,
                "bias": bias,
            }
            more: dict[str, Any] = {"by_row": ("logits", "slot", "biased", "rules"), "may_change": ("logits",)}
            yield make.call("penalise", rows, given, run, right, **more, exact=True, result_dtype=torch.float32)


OPTIONAL = ("draw", "penalise")  # of FusedOps: checked where a table has it
CASES: dict[str, Callable[[Maker], Iterator[Call]]] = {
    "linear": linear,
    "embedding": embedding,
    "rms_norm": rms_norm,
    "add_rms_norm": add_rms_norm,
    "silu_mul": silu_mul,
    "argmax": argmax,
    "rope": rope,
    "draw": draw,
    "penalise": penalise,
}
