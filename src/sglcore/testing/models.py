"""ModelConformance: a model plugin against Transformers, on tiny random checkpoints made on the spot."""

from __future__ import annotations

import copy
import json
import os
import re
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch

from sglcore.builtin.cpu_ops import CpuOps
from sglcore.builtin.torch_attention import TorchAttention
from sglcore.contracts.attention import AttentionBackend
from sglcore.contracts.models import BuildContext, Model, ModelSpec
from sglcore.errors import ConfigError
from sglcore.testing.harness import ModelHarness
from sglcore.testing.recording import RecordingAttention
from sglcore.testing.specs import SpecConformance
from sglcore.testing.tensor_parallel import sharded_logits

Case = tuple[dict[str, Any], Any]  # config.json as a dict, the Transformers model


class ModelConformance(SpecConformance):
    """Subclass with `spec`, Transformers' `model_type`, and by name the settings of a few tiny configs.

    length: tokens of the test rows; make it exceed windows and original context lengths. tolerance: error
    allowed, as a share of the largest logit.
    """

    spec: ClassVar[ModelSpec]
    family = "models"
    model_type: ClassVar[str]
    configs: ClassVar[dict[str, dict[str, Any]]]
    length: ClassVar[int] = 24
    tolerance: ClassVar[float] = 2e-5
    sharded: ClassVar[tuple[str, ...]] = ()  # names of configs to split over two ranks; the first two where empty

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One run of each test a config."""
        if "config" in metafunc.fixturenames:
            metafunc.parametrize("config", sorted(self.configs), scope="class")

    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, config: str) -> Case:
        """The config's checkpoint, with weights wide enough that every part of the model shows in the logits."""
        return cls.reference(cls.configs[config])

    @classmethod
    def reference(cls, settings: dict[str, Any]) -> Case:
        """(config.json as a dict, Transformers' model in float32)."""
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from transformers import AutoConfig, AutoModelForCausalLM

        configuration = AutoConfig.for_model(cls.model_type, **copy.deepcopy(settings))
        model = AutoModelForCausalLM.from_config(configuration, attn_implementation="eager", dtype=torch.float32)
        random = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in model.parameters():
                center = 1.0 if parameter.dim() == 1 and bool((parameter == 1).all()) else 0.0
                parameter.copy_(torch.empty(parameter.shape).normal_(center, 0.15, generator=random))
        plain = json.loads(configuration.to_json_string(use_diff=False))
        return {**plain, "architectures": [cls.spec.name]}, model.eval()

    def build(self, case: Case, *, load: bool = True, attention: AttentionBackend | None = None) -> Model:
        """The plugin's model with the checkpoint's weights."""
        config, reference = case
        context = BuildContext(
            config=copy.deepcopy(config),
            ops=CpuOps(),
            attention=attention or TorchAttention(),
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        model: Model = self.spec.load()(context)
        if load:
            model.load(iter(self.checkpoint(reference)))
        return model

    def checkpoint(self, reference: Any) -> list[tuple[str, torch.Tensor]]:
        """What the saved model would hold: tied tensors once."""
        tied = set(getattr(reference, "all_tied_weights_keys", None) or ())
        return [(name, tensor) for name, tensor in reference.state_dict().items() if name not in tied]

    def harness(self, model: Model, page_size: int = 1) -> ModelHarness:
        """A driver around a built model."""
        return ModelHarness(model, TorchAttention(), pages=16 * self.length, page_size=page_size)

    def tokens(self, case: Case, count: int, seed: int = 0) -> list[int]:
        """Random token ids."""
        random = torch.Generator().manual_seed(seed)
        found: list[int] = torch.randint(0, case[0]["vocab_size"], (count,), generator=random).tolist()
        return found

    def test_logits_match_transformers(self, case: Case) -> None:
        """Every position of two prompts in one step."""
        harness = self.harness(self.build(case))
        prompts = [self.tokens(case, self.length), self.tokens(case, self.length // 2, 1)]
        got = harness.run([(harness.row(len(prompt)), prompt) for prompt in prompts])
        for prompt, logits in zip(prompts, got, strict=True):
            with torch.no_grad():  # a copy, since rotary tables of some kinds remember the longest input
                want = copy.deepcopy(case[1])(torch.tensor([prompt])).logits[0].float()
            assert logits.dtype == torch.float32, f"logits are {logits.dtype}, not float32"
            self._close(logits, want, f"logits of a prompt of {len(prompt)} tokens differ from Transformers'")

    def test_prefill_chunks_and_decoding_agree(self, case: Case) -> None:
        """A prompt at once, in chunks on paged prefixes, and token by token."""
        harness = self.harness(self.build(case), page_size=4)
        prompt = self.tokens(case, self.length)
        whole = harness.run([(harness.row(self.length), prompt)])[0]
        for cuts in ((5, 11), tuple(range(1, self.length))):
            row = harness.row(self.length)
            bounds = [0, *cuts, self.length]
            parts = [harness.run([(row, prompt[a:b])])[0] for a, b in pairwise(bounds)]
            how = "token by token" if len(bounds) > self.length else f"in chunks cut at {', '.join(map(str, cuts))}"
            self._close(torch.cat(parts), whole, f"a prompt computed {how} differs from the prompt at once")

    def test_a_row_does_not_depend_on_its_batch(self, case: Case) -> None:
        """Alone, and among prompts and decoding rows."""
        model = self.build(case)
        prompt = self.tokens(case, self.length)
        alone = self.harness(model)
        row = alone.row(self.length)
        want = [alone.run([(row, prompt[:-1])])[0], alone.run([(row, prompt[-1:])])[0]]
        among = self.harness(model)
        row, other, third = (among.row(self.length) for _ in range(3))
        first = among.run([(other, self.tokens(case, 9, 2)), (row, prompt[:-1]), (third, [1])])[1]
        second = among.run([(third, self.tokens(case, 5, 3)), (row, prompt[-1:]), (other, [2])])[1]
        self._close(first, want[0], "a prompt among other rows differs from the prompt alone")
        self._close(second, want[1], "a decoding row among other rows differs from the row alone")

    def test_logits_of_the_wanted_positions_only(self, case: Case) -> None:
        """`sample_index` picks rows of the full result, in its order."""
        model = self.build(case)
        harness = self.harness(model)
        prompt = self.tokens(case, self.length)
        whole = harness.run([(harness.row(self.length), prompt)])[0]
        wanted = [self.length - 1, 2]
        with torch.inference_mode():
            got = model.forward(harness.inputs([(harness.row(self.length), prompt)], wanted))
        self._close(got, whole[wanted], "sample_index picks other positions")

    def test_no_logits_where_none_are_wanted(self, case: Case) -> None:
        """A step in which no row ends its prompt: no positions, no logits, and the cache is filled all the same."""
        model = self.build(case)
        harness = self.harness(model)
        prompt, row = self.tokens(case, self.length), harness.row(self.length)
        with torch.inference_mode():
            none = model.forward(harness.inputs([(row, prompt[:-1])], []))
        assert none.shape[0] == 0, f"{none.shape[0]} rows of logits where none were wanted"
        whole = harness.run([(harness.row(self.length), prompt)])[0]
        last = harness.run([(row, prompt[-1:])])[0]
        self._close(last, whole[-1:], "a step without samples does not fill the cache")

    def test_declared_needs_are_the_real_ones(self, case: Case) -> None:
        """What it asks of the attention backend is declared in the Spec, and its groups name every layer it uses."""
        attention = RecordingAttention(TorchAttention())
        model = self.build(case, attention=attention)
        groups = model.kv_groups()
        harness = ModelHarness(model, attention, pages=16 * self.length)
        harness.run([(harness.row(self.length), self.tokens(case, self.length))])
        name = self.spec.name
        used = attention.used | {"sliding_window" for group in groups if group.kind == "window" or group.window}
        hidden = sorted(used - set(self.spec.needs))
        assert not hidden, f"{name} uses {', '.join(hidden)}, but its Spec needs {self.spec.needs or 'nothing'}"
        layers = sorted(layer for group in groups for layer in group.layers)
        assert layers == sorted(set(layers)), f"{name}: a layer is in two groups: {layers}"
        for what, calls in (("writes", attention.written), ("attends", attention.attended)):
            assert sorted(calls) == layers, f"{name} {what} layers {sorted(calls)} in a step, its groups have {layers}"

    def test_missing_weights_are_refused(self, case: Case) -> None:
        """A tensor of each kind in turn is left out: ConfigError naming it; none is invented."""
        stored = self.checkpoint(case[1])
        for drop in one_of_each_kind(stored):
            name = stored[drop][0]
            self._refused(case, stored[:drop] + stored[drop + 1 :], name, f"the checkpoint lacks {name}")

    def test_foreign_weights_are_refused(self, case: Case) -> None:
        """A tensor that is unknown or has another shape: ConfigError naming it; none is dropped."""
        stored = self.checkpoint(case[1])
        stranger = "model.stranger.weight"
        self._refused(case, [*stored, (stranger, torch.zeros(1))], stranger, f"the checkpoint has {stranger}")
        for index in one_of_each_kind(stored):
            name, tensor = stored[index]
            shorter = [*stored[:index], (name, tensor[:1]), *stored[index + 1 :]]
            self._refused(case, shorter, name, f"{name} has shape {list(tensor[:1].shape)}, not {list(tensor.shape)}")

    def test_every_tensor_shows_in_the_logits(self, case: Case) -> None:
        """Changing any one tensor of the checkpoint changes what comes out."""
        stored = self.checkpoint(case[1])
        prompt = self.tokens(case, 6)

        def logits(tensors: list[tuple[str, torch.Tensor]]) -> torch.Tensor:
            model = self.build(case, load=False)
            model.load(iter(tensors))
            harness = self.harness(model)
            return harness.run([(harness.row(len(prompt)), prompt)])[0]

        plain = logits(stored)
        for i, (name, tensor) in enumerate(stored):
            random = torch.Generator().manual_seed(i)
            changed = tensor + torch.empty(tensor.shape).normal_(0, 0.5, generator=random)
            moved = logits([*stored[:i], (name, changed), *stored[i + 1 :]])
            # a key bias moves every score of a row alike where nothing rotates it, so any visible change counts
            assert not torch.equal(moved, plain), f"{name} is loaded but has no effect"

    def test_dummy_weights(self, case: Case) -> None:
        """The same for the same seed, others for another, and finite."""
        results = []
        for seed in (1, 1, 2):
            model = self.build(case, load=False)
            model.load_dummy(seed)
            harness = self.harness(model)
            results.append(harness.run([(harness.row(8), self.tokens(case, 8))])[0])
        assert all(bool(torch.isfinite(logits).all()) for logits in results), "dummy weights give no finite logits"
        assert torch.equal(results[0], results[1]), "the same seed gives two models"
        assert not torch.equal(results[0], results[2]), "every seed gives the same model"

    def _refused(self, case: Case, tensors: list[tuple[str, torch.Tensor]], name: str, what: str) -> None:
        model = self.build(case, load=False)
        try:
            model.load(iter(tensors))
        except ConfigError as error:
            if name not in str(error):
                raise AssertionError(f"{what}: the error does not name it: {error}") from error
            return
        raise AssertionError(f"{what}, and it is loaded all the same")

    def test_tensor_parallel_shards_equal_the_whole(self) -> None:
        """Two ranks in processes of their own give what one gives; a model that declares no shards refuses them."""
        for name in self.sharded or sorted(self.configs)[:2]:
            case = self.reference(self.configs[name])
            prompt = self.tokens(case, self.length)
            stored = self.checkpoint(case[1])
            if not self.spec.tensor_parallel:
                with pytest.raises(ConfigError):
                    sharded_logits(self.spec, case[0], stored, prompt)
                return
            harness = self.harness(self.build(case))
            whole = harness.run([(harness.row(self.length), prompt)])[0]
            for logits in sharded_logits(self.spec, case[0], stored, prompt):
                self._close(logits, whole)

    def _close(self, got: torch.Tensor, want: torch.Tensor, what: str = "logits differ") -> None:
        error = float((got - want).abs().max().nan_to_num(float("inf"))) if got.shape == want.shape else 0.0
        bound = self.tolerance * max(1.0, float(want.abs().max()))
        assert got.shape == want.shape, f"logits of shape {tuple(got.shape)}, not {tuple(want.shape)}"
        assert error <= bound, f"{what}: largest error {error:.2e}, allowed {bound:.2e}"


def one_of_each_kind(stored: list[tuple[str, torch.Tensor]]) -> list[int]:
    """Places of tensors whose names differ in more than numbers: of layers that are alike, the last one's."""
    return sorted({re.sub(r"\d+", "0", name): index for index, (name, _) in enumerate(stored)}.values())
