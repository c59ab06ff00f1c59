"""QuantConformance: a quantization method against the weight its tensors stand for, in layers of `sglcore.layers`."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch

from sglcore.builtin.cpu_ops import CpuOps
from sglcore.builtin.torch_attention import TorchAttention
from sglcore.contracts.models import BuildContext
from sglcore.contracts.quant import LinearPart, QuantContext, QuantMethod, QuantSpec, QuantTensor
from sglcore.errors import ConfigError
from sglcore.layers import loading
from sglcore.layers.linear import Linear, Part, RowParallelLinear
from sglcore.testing.devices import device_of, need_device, need_probe
from sglcore.testing.specs import SpecConformance

PREFIX = "model.layers.0.self_attn."
RANKS = 2
NONSENSE: tuple[Any, ...] = (None, -1, "text", [], {}, 1e30, True, [[]])
Tensors = dict[str, torch.Tensor]


class QuantConformance(SpecConformance):
    """Subclass with `spec`, and override `quantize`; without it only the declarations are checked.

    config: a checkpoint's quantization_config. parts: outputs of the parts of a layer; in_features: its inputs.
    tolerance: largest error by dtype of the activations, as a share of the largest result, against the weight that
    the tensors stand for. online_tolerance: the same against the plain weight, where the Spec says online.
    """

    spec: ClassVar[QuantSpec]
    family = "quant"
    config: ClassVar[dict[str, Any]] = {}
    parts: ClassVar[tuple[int, ...]] = (128, 64, 64)
    in_features: ClassVar[int] = 128
    tolerance: ClassVar[dict[str, float]] = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 3e-3}
    online_tolerance: ClassVar[float] = 0.1

    @pytest.fixture(autouse=True)
    def _able(self) -> None:
        need_probe(self.spec)
        need_device(device_of(self.spec.platforms))

    def quantize(self, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor] | None:
        """weight float32 [out, in] -> (a checkpoint's tensors by suffix, the float weight that they stand for)."""
        return None

    def make(self, dtype: str, config: dict[str, Any] | None = None) -> QuantMethod:
        """A fresh method for `config`, the suite's own where none is given."""
        given = dict(self.config) if config is None else config
        method: QuantMethod = self.spec.load()(
            QuantContext(config=given, ops=CpuOps(), dtype=getattr(torch, dtype), device=self.where())
        )
        return method

    def where(self) -> torch.device:
        """The device to test on."""
        return torch.device(device_of(self.spec.platforms))

    def dtypes(self) -> tuple[str, ...]:
        """Dtypes of activations to try: those declared, float32 and bfloat16 where any will do."""
        return self.spec.dtypes or ("float32", "bfloat16")

    def test_tensors_are_well_declared(self) -> None:
        """Distinct suffixes, whole shapes, known dtypes, dimensions that run over outputs and inputs as they say."""
        method = self.make(self.dtypes()[0])
        for part in self._parts():
            wanted = method.tensors(part)
            assert wanted == method.tensors(part), "asked twice it names other tensors"
            if wanted is None:
                raise AssertionError(f"{part.name} is left plain by the suite's config {self.config!r}")
            suffixes = [tensor.suffix for tensor in wanted]
            assert suffixes and len(set(suffixes)) == len(suffixes), f"suffixes are {suffixes}"
            for tensor in wanted:
                check_tensor(tensor, part)

    def test_the_kernel_multiplies_by_the_weight(self) -> None:
        """One row and many, with and without a bias, parts of several sizes, every dtype."""
        for dtype in self.dtypes():
            for biased in (False, True):
                layer, weight, bias = self._layer(self.make(dtype), dtype, biased)
                assert layer.op is not None and layer.op.out_features == sum(self.parts), "out_features is wrong"
                for rows in (1, 2, 7, 64):
                    x = self._normal(rows, self.in_features).to(self.where(), getattr(torch, dtype))
                    before = x.clone()
                    got = layer(x)
                    assert torch.equal(x, before), "the kernel changes its input"
                    self._close(got, x, weight, bias, dtype, f"{rows} rows in {dtype}")

    def test_shares_of_ranks_make_the_whole(self) -> None:
        """Cut by outputs the ranks' results stand side by side; cut by inputs they add up."""
        if not self.spec.tensor_parallel:
            pytest.skip(f"{self.spec.name} declares no tensor parallelism")
        dtype = self.dtypes()[0]
        whole, weight, bias = self._layer(self.make(dtype), dtype, True)
        x = self._normal(5, self.in_features).to(self.where(), getattr(torch, dtype))
        ranks = [self._layer(self.make(dtype), dtype, True, rank=rank)[0](x) for rank in range(RANKS)]
        sizes = [size // RANKS for size in self.parts]
        pieces = [rank.split(sizes, -1) for rank in ranks]
        joined = torch.cat([pieces[rank][part] for part in range(len(sizes)) for rank in range(RANKS)], -1)
        self._close(joined, x, weight, bias, dtype, "cut by outputs")
        width = self.in_features // RANKS
        sums = [
            self._row_layer(dtype, rank)(x[:, rank * width : (rank + 1) * width].contiguous()) for rank in range(RANKS)
        ]
        only = self._weights()[0][1]
        self._close(sum(sums[1:], sums[0]), x, only, None, dtype, "cut by inputs")
        assert whole.sizes == list(self.parts)

    def test_dummy_weights_give_finite_results(self) -> None:
        """Random tensors within the declared spans."""
        dtype = self.dtypes()[0]
        layer = self._linear(self._context(self.make(dtype), dtype), False)
        loading.load_dummy(layer.slots(PREFIX), 3)
        out = layer(self._normal(3, self.in_features).to(self.where(), getattr(torch, dtype)))
        assert bool(torch.isfinite(out).all()), "dummy weights give no finite results: declare `span`"

    def test_nonsense_in_the_config_is_refused(self) -> None:
        """Values of other types: ConfigError, or ignored; nothing else."""
        for name in (*self.config, "bits", "group_size", "quant_method"):
            for value in NONSENSE:
                try:
                    method = self.make(self.dtypes()[0], {**self.config, name: value})
                    for part in self._parts():
                        method.tensors(part)
                except ConfigError:
                    continue
                except Exception as error:
                    raise AssertionError(
                        f"{name} = {value!r} raises {type(error).__name__}, not ConfigError: {error}"
                    ) from error

    def test_a_plain_checkpoint_is_quantized(self) -> None:
        """Where the Spec says online: near the plain weight."""
        if not self.spec.online:
            pytest.skip(f"{self.spec.name} quantizes no plain checkpoint")
        dtype = self.dtypes()[0]
        layer = self._linear(self._context(self.make(dtype, {}), dtype), False)
        weights = [self._normal(size, self.in_features) for size in self.parts]
        names = {f"{PREFIX}p{i}.weight": weight for i, weight in enumerate(weights)}
        loading.load(iter(names.items()), layer.slots(PREFIX))
        x = self._normal(7, self.in_features).to(self.where(), getattr(torch, dtype))
        want = x.double().cpu() @ torch.cat(weights).double().t()
        error = float((layer(x).double().cpu() - want).abs().max() / want.abs().max())
        assert error <= self.online_tolerance, f"error {error:.2e} of a plain weight, allowed {self.online_tolerance}"

    def _parts(self) -> list[LinearPart]:
        inner = self.in_features
        return [
            LinearPart(name=f"{PREFIX}p{i}", out_features=out, in_features=inner, rows=(0, out), columns=(0, inner))
            for i, out in enumerate(self.parts)
        ]

    def _context(self, method: QuantMethod, dtype: str, rank: int | None = None) -> BuildContext:
        return BuildContext(
            config={},
            ops=CpuOps(),
            attention=TorchAttention(),
            dtype=getattr(torch, dtype),
            device=self.where(),
            all_reduce=lambda x: x,  # the test adds up by itself
            quant=method,
            tp_rank=rank or 0,
            tp_size=1 if rank is None else RANKS,
        )

    def _linear(self, ctx: BuildContext, biased: bool) -> Linear:
        parts = [Part(f"p{i}", size, ctx.tp_size) for i, size in enumerate(self.parts)]
        return Linear(ctx, self.in_features, parts, bias=biased)

    def _weights(self) -> list[tuple[Tensors, torch.Tensor]]:
        found = []
        for i, size in enumerate(self.parts):
            made = self.quantize(self._normal(size, self.in_features, seed=i + 1) * self.in_features**-0.5)
            if made is None:
                pytest.skip("the suite quantizes no weight")
            found.append(made)
        return found

    def _layer(
        self, method: QuantMethod, dtype: str, biased: bool, rank: int | None = None
    ) -> tuple[Linear, torch.Tensor, torch.Tensor | None]:
        """A loaded layer, the weight [out, in] that it stands for, its bias."""
        weights = self._weights()
        layer = self._linear(self._context(method, dtype, rank), biased)
        bias = [self._normal(size, seed=i + 50) for i, size in enumerate(self.parts)]
        stored = {f"{PREFIX}p{i}.{suffix}": t for i, (made, _) in enumerate(weights) for suffix, t in made.items()}
        if biased:
            stored |= {f"{PREFIX}p{i}.bias": part for i, part in enumerate(bias)}
        loading.load(iter(stored.items()), layer.slots(PREFIX))
        return layer, torch.cat([weight for _, weight in weights]), torch.cat(bias) if biased else None

    def _row_layer(self, dtype: str, rank: int) -> Linear:
        made, _ = self._weights()[0]
        ctx = self._context(self.make(dtype), dtype, rank)
        layer = RowParallelLinear(ctx, self.in_features, self.parts[0], "p0")
        loading.load(((f"{PREFIX}p0.{suffix}", tensor) for suffix, tensor in made.items()), layer.slots(PREFIX))
        return layer

    def _close(
        self, got: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dtype: str, what: str
    ) -> None:
        want = x.double().cpu() @ weight.double().t() + (0 if bias is None else bias.double())
        assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, not {tuple(want.shape)}"
        assert got.dtype == getattr(torch, dtype), f"{what}: results are {got.dtype}"
        error = float(((got.double().cpu() - want).abs().max() / want.abs().max()).nan_to_num(math.inf))
        bound = self.tolerance[dtype]
        assert error <= bound, f"{what}: error {error:.2e} of the largest result, allowed {bound:.2e}"

    def _normal(self, *shape: int, seed: int = 0) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def check_tensor(tensor: QuantTensor, part: LinearPart) -> None:
    """Raises AssertionError where what is declared of a tensor cannot be."""
    told = f"{part.name}.{tensor.suffix}"
    assert all(type(n) is int and n > 0 for n in tensor.shape), f"{told} has shape {tensor.shape}"
    known = not tensor.dtype or isinstance(getattr(torch, tensor.dtype, None), torch.dtype)
    assert known, f"{told}: torch has no dtype {tensor.dtype!r}"
    for dim, per, total, what in (
        (tensor.out_dim, tensor.out_per, part.out_features, "outputs"),
        (tensor.in_dim, tensor.in_per, part.in_features, "inputs"),
    ):
        if dim is not None:
            assert -len(tensor.shape) <= dim < len(tensor.shape), f"{told} has no dimension {dim} for its {what}"
            held = tensor.shape[dim]
            assert held == -(-total // per), f"{told}: {held} elements of {per} {what} each for {total} {what}"
