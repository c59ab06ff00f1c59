"""The solver against its own definition: what it chooses satisfies everything, and what it says of the rest is true."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.made_up import attention, model, platform
from sglcore.contracts.attention import AttentionSpec
from sglcore.contracts.models import ModelSpec
from sglcore.contracts.ops import OpsSpec
from sglcore.contracts.platforms import PlatformSpec
from sglcore.contracts.quant import QuantSpec
from sglcore.errors import PluginError
from sglcore.negotiation.decision import Decision, Refused, Verdict
from sglcore.negotiation.demand import Demand
from sglcore.negotiation.rank import Offer, best, lost_to
from sglcore.negotiation.solver import Solver

DEVICES, DTYPES, KV = ("cpu", "cuda"), ("float32", "bfloat16"), ("float32", "bfloat16", "int8")
Offers = dict[str, list[Offer]]


class Draws(random.Random):
    """Draws of a made-up installation; a seed is one of them."""

    def some(self, *values: Any) -> tuple[Any, ...]:
        return tuple(v for v in values if self.random() < 0.5)

    def limit(self, *values: Any) -> tuple[Any, ...]:
        """Mostly none."""
        return self.some(*values) if self.random() < 0.3 else ()

    def mostly(self) -> bool:
        return self.random() < 0.85

    def seldom(self, value: Any, otherwise: Any) -> Any:
        return value if self.random() < 0.15 else otherwise

    def common(self, name: str, others: str) -> dict[str, Any]:
        """What every spec has; it may replace those before it in the alphabet, so that there is no circle."""
        before = [n for n in others if n < name]
        return {
            "name": name,
            "factory": "x:y",
            "replaces": self.some(*before) if self.random() < 0.3 else (),
            "probe": self.choice(["", "engine.made_up:says_yes", "", self.seldom("engine.made_up:says_no", "")]),
            "priority": self.randint(0, 2),
        }

    def where(self) -> dict[str, Any]:
        return {"platforms": self.limit(*DEVICES), "dtypes": self.limit(*DTYPES)}

    def names(self, names: str) -> str:
        return "".join(self.sample(names, self.choice([3, 3, 2, 1, self.seldom(0, 3)])))

    def platforms(self, name: str) -> PlatformSpec:
        device, dtypes, kv = self.choice(DEVICES), self.limit(*DTYPES), self.seldom((), KV)
        more = {"device": device, "dtypes": dtypes, "kv_dtypes": kv, "tensor_parallel": self.mostly()}
        return PlatformSpec(**self.common(name, "pqr"), **more)

    def models(self, name: str) -> ModelSpec:
        more = {"needs": self.limit("mla", "sinks"), "fallback": self.random() < 0.3}
        more |= {"tensor_parallel": self.mostly(), "quantization": self.mostly()}
        return ModelSpec(**self.common(name, "XYZ"), **self.where(), **more)

    def attention(self, name: str) -> AttentionSpec:
        more = {feature: self.mostly() for feature in ("mla", "sinks", "mixed", "tensor_parallel")}
        lists = {"kv_dtypes": self.some(*KV), "head_dims": self.limit(64, 128), "page_sizes": self.limit(1, 16)}
        return AttentionSpec(**self.common(name, "abc"), **self.where(), **more, **lists)

    def quant(self, name: str) -> QuantSpec:
        methods = self.choice([("gptq",), ("gptq", "awq"), ("awq",)])
        more = {"methods": methods, "online": self.mostly(), "bits": self.limit(4, 8), "moe": self.mostly()}
        return QuantSpec(**self.common(name, "stu"), **self.where(), **more, tensor_parallel=self.mostly())

    def ops(self, name: str) -> OpsSpec:
        provides = self.some("rope", "rms_norm", self.seldom("unheard_of", "rope"))
        return OpsSpec(**self.common(name, "klm"), **self.where(), provides=provides)

    def sets(self) -> dict[str, list[Any]]:
        makers = {"platforms": "pqr", "models": "XYZ", "quant": "stu", "attention": "abc", "ops": "klm"}
        return {family: [getattr(self, family)(n) for n in self.names(names)] for family, names in makers.items()}

    def demand(self) -> Demand:
        return Demand(
            architectures=self.choice([("X",), ("X", "Y"), ("Y",)]),
            model_impl=self.seldom(self.choice(["sglcore", "transformers"]), "auto"),
            dtype=self.choice(["auto", "auto", *DTYPES]),
            stored=self.choice(DTYPES),
            kv_dtype=self.choice(["auto", "auto", *KV]),
            page_size=self.choice([1, 16]),
            head_dim=self.choice([0, 64, 80]),
            unneeded=self.some("sinks"),
            moe=self.random() < 0.3,
            quant_method=self.choice(["", "gptq"]),
            bits=self.choice([0, 4]),
            features=self.choice([(), (("tensor_parallel", "--tp-size 2"),)]),
        )


Case = tuple[Demand, dict[str, list[Any]]]


def drawn(seed: int) -> Case:
    draws = Draws(seed)
    return draws.demand(), draws.sets()


CASES = st.integers(0, 2**64 - 1).map(drawn)


def offered(sets: dict[str, list[Any]]) -> Offers:
    return {
        f: [Offer(s.name, s, "sglcore" if s.name in "ax" else f"d-{s.name}", "1") for s in v] for f, v in sets.items()
    }


def solve(demand: Demand, offers: Offers) -> Decision | Refused:
    try:
        return Solver(demand, offers, lambda family, names: None).solve()
    except Refused as refusal:
        return refusal


# -- the definition, written a second time and in another way --


def runs(spec: Any) -> bool:
    return not spec.probe.endswith("no")


class World:
    """What is settled once a platform is: device, dtype, kv dtype."""

    def __init__(self, demand: Demand, chosen: Any) -> None:
        self.demand, self.platform = demand, chosen
        auto = demand.stored if demand.stored in (chosen.dtypes or DTYPES) else chosen.dtypes[0]
        self.dtype = auto if demand.dtype == "auto" else demand.dtype
        self.kv = self.dtype if demand.kv_dtype == "auto" else demand.kv_dtype
        self.features = [feature for feature, _ in demand.features]

    def where(self, spec: Any) -> dict[str, bool]:
        return {
            "platforms": self.platform.device in (spec.platforms or DEVICES),
            "dtypes": self.dtype in (spec.dtypes or DTYPES),
            "probe": runs(spec),
            **{feature: getattr(spec, feature) for feature in self.features if hasattr(spec, feature)},
        }

    def keeps(self, spec: Any) -> bool:
        return self.kv == self.dtype or self.kv in spec.kv_dtypes

    def of_platform(self) -> dict[str, bool]:
        spec = self.platform
        typed = {"dtypes": self.dtype in (spec.dtypes or DTYPES), "kv_dtypes": self.keeps(spec)}
        return typed | {feature: getattr(spec, feature) for feature in self.features}

    def of_model(self, spec: Any, quantized: bool) -> dict[str, bool]:
        impl = self.demand.model_impl
        allowed = impl == "auto" or (impl == "transformers") == spec.fallback
        return self.where(spec) | {"model_impl": allowed, "quantization": spec.quantization or not quantized}

    def of_attention(self, spec: Any, needs: tuple[str, ...]) -> dict[str, bool]:
        asked = [need for need in needs if need not in self.demand.unneeded]
        return {
            **self.where(spec),
            **{need: getattr(spec, need) for need in asked},
            "mixed": spec.mixed,
            "head_dims": self.demand.head_dim in (0, *spec.head_dims) or not spec.head_dims,
            "page_sizes": self.demand.page_size in (spec.page_sizes or (1, 16)),
            "kv_dtypes": self.keeps(spec),
        }

    def of_quant(self, spec: Any) -> dict[str, bool]:
        ask = self.demand
        return {
            **self.where(spec),
            "methods": ask.quant_method in spec.methods,
            "bits": ask.bits in (0, *spec.bits) or not spec.bits,
            "moe": spec.moe or not ask.moe,
        }

    def of_ops(self, spec: Any) -> dict[str, bool]:
        return {**self.where(spec), "provides": spec.provides != () and "unheard_of" not in spec.provides}


def serves(demand: Demand, spec: Any) -> bool:
    return spec.fallback or bool({spec.name, *spec.replaces} & set(demand.architectures))


def named(sets: dict[str, list[Any]], family: str, name: str) -> Any:
    return next(s for s in sets[family] if s.name == name)


@settings(max_examples=400, deadline=None)
@given(case=CASES)
def test_the_choice_satisfies_every_constraint(case: Case) -> None:
    demand, sets = case
    decision = solve(demand, offered(sets))
    if isinstance(decision, Refused):
        assert nothing_would_do(demand, sets, decision)
        return
    world = World(demand, decision.platform)
    assert runs(decision.platform)
    assert all(world.of_platform().values())
    assert serves(demand, decision.model)
    assert all(world.of_model(decision.model, decision.quant is not None).values())
    assert all(world.of_attention(decision.attention, decision.model.needs).values())
    assert (decision.quant is not None) == bool(demand.quant_method)
    assert decision.quant is None or all(world.of_quant(decision.quant).values())
    for op, name in decision.ops:
        spec = named(sets, "ops", name)
        assert op in spec.provides
        assert all(world.of_ops(spec).values())
    assert (decision.dtype, decision.kv_dtype) == (world.dtype, world.kv)


def nothing_would_do(demand: Demand, sets: dict[str, list[Any]], refusal: Refused) -> bool:
    """Whether no combination on the platform that was settled on satisfies everything."""
    settled = [v.name for v in refusal.verdicts if v.family == "platforms" and v.state == "chosen"]
    if not settled:  # no platform runs, or the first of them cannot do what is asked
        able = [Offer(p.name, p, f"d-{p.name}") for p in sets["platforms"] if runs(p)]
        return not able or not all(World(demand, best("platforms", able).spec).of_platform().values())
    world = World(demand, named(sets, "platforms", settled[0]))
    quants = [q for q in sets["quant"] if all(world.of_quant(q).values())]
    if demand.quant_method and not quants:
        return True
    quantized = bool(demand.quant_method)
    models = [m for m in sets["models"] if serves(demand, m) and all(world.of_model(m, quantized).values())]
    return not any(all(world.of_attention(a, m.needs).values()) for m in models for a in sets["attention"])


@settings(max_examples=400, deadline=None)
@given(case=CASES)
def test_every_reason_is_true(case: Case) -> None:
    demand, sets = case
    outcome = solve(demand, offered(sets))
    chosen = {v.family: v.name for v in outcome.verdicts if v.state == "chosen"}
    for verdict in outcome.verdicts:
        if verdict.state == "rejected":
            assert verdict.reason, verdict
            assert is_true(verdict, demand, sets, outcome), verdict
        elif verdict.state == "fits" and verdict.family in chosen:
            assert is_outranked(verdict, sets), verdict
    if not isinstance(outcome, Refused):
        judged = {(v.family, v.name) for v in outcome.verdicts}
        wanted = {f: s for f, s in sets.items() if f != "quant" or demand.quant_method}
        assert judged >= {(f, s.name) for f, v in wanted.items() for s in v if f != "models" or serves(demand, s)}


def is_true(verdict: Verdict, demand: Demand, sets: dict[str, list[Any]], outcome: Decision | Refused) -> bool:
    """Whether the constraint that a rejection names is indeed not met."""
    if verdict.constraint == "installed":
        return verdict.name not in {s.name for s in sets["models"]}
    spec = named(sets, verdict.family, verdict.name)
    if verdict.family == "platforms":
        world = World(demand, spec)
        return not (world.of_platform() | {"probe": runs(spec)})[verdict.constraint]
    settled = next(v.name for v in outcome.verdicts if v.family == "platforms" and v.state == "chosen")
    world = World(demand, named(sets, "platforms", settled))
    if verdict.constraint == "attention":
        return not any(all(world.of_attention(a, spec.needs).values()) for a in sets["attention"])
    if verdict.family == "attention":
        # refused: the rows are those of the last model tried
        needs = [m.needs for m in sets["models"]] if isinstance(outcome, Refused) else [outcome.model.needs]
        return any(not world.of_attention(spec, n).get(verdict.constraint, True) for n in needs)
    rules = {
        "models": lambda s: world.of_model(s, bool(demand.quant_method)),
        "quant": world.of_quant,
        "ops": world.of_ops,
    }
    return not rules[verdict.family](spec)[verdict.constraint]


def is_outranked(verdict: Verdict, sets: dict[str, list[Any]]) -> bool:
    loser = named(sets, verdict.family, verdict.name)
    if verdict.constraint == "replaces":
        return any(f"by {s.name}" in verdict.reason and loser.name in s.replaces for s in sets[verdict.family])
    rivals = [s for s in sets[verdict.family] if s.name in verdict.reason.replace("'s", " ").split() and s is not loser]
    rules = {
        "fallback": lambda s: loser.fallback and not s.fallback,
        "priority": lambda s: loser.priority < s.priority,
        "built-in": lambda s: loser.priority == s.priority and s.name in "ax" and loser.name not in "ax",
        "tie": lambda s: (
            loser.priority == s.priority and (s.name in "ax") == (loser.name in "ax") and s.name < loser.name
        ),
    }
    return any(rules[verdict.constraint](s) for s in rivals) or verdict.reason.count("built-in") > 0


@settings(max_examples=200, deadline=None)
@given(case=CASES, data=st.data())
def test_the_order_of_discovery_changes_nothing(case: Case, data: st.DataObject) -> None:
    demand, sets = case
    shuffled = {family: data.draw(st.permutations(found)) for family, found in offered(sets).items()}
    one, other = solve(demand, offered(sets)), solve(demand, shuffled)
    assert type(one) is type(other)
    assert one.verdicts == other.verdicts
    if isinstance(one, Decision) and isinstance(other, Decision):
        assert one.choice == other.choice
    else:
        assert str(one) == str(other)


# -- precedence --


def offer(name: str, distribution: str = "", **declared: Any) -> Offer:
    return Offer(name, attention(name, **declared), distribution or f"d-{name}", "1")


@pytest.mark.parametrize(
    "winner, loser, said",
    [
        (offer("z", replaces=("a",)), offer("a", priority=9), "replaced by z"),
        (offer("z", priority=1), offer("a", "sglcore"), "its priority 0 is below z's 1"),
        (offer("z", "sglcore"), offer("a"), "no higher priority than the built-in z, and does not replace it"),
        (offer("a"), offer("b"), "a tie with a of d-a; the first by name is taken"),
        (offer("z", replaces=("z",)), offer("zz"), "a tie with z of d-z"),
    ],
)
def test_precedence(winner: Offer, loser: Offer, said: str) -> None:
    assert best("attention", [loser, winner]) is winner
    assert said in lost_to(winner, loser, [loser, winner]).text


def test_a_native_model_goes_before_the_fallback_of_any_priority() -> None:
    native, fallback = (Offer(s.name, s) for s in (model("X"), model("any", fallback=True, priority=9)))
    assert best("models", [fallback, native]) is native


def test_plugins_that_replace_each_other_are_told_so() -> None:
    circle = [offer("a", replaces=("b",)), offer("b", replaces=("c",)), offer("c", replaces=("a",)), offer("d")]
    with pytest.raises(PluginError, match="'a' of d-a 1 and 'c' of d-c 1 declare, in a circle"):
        best("attention", circle)
    assert best("attention", circle[:2]).name == "a"


def test_what_cannot_be_used_is_listed_and_never_chosen() -> None:
    offers = offered(
        {"platforms": [platform()], "models": [model("X")], "quant": [], "attention": [attention("b")], "ops": []}
    )
    offers["attention"].append(Offer("a", None, "d-a", "2", "fails to import"))
    decision = solve(Demand(architectures=("X",)), offers)
    assert isinstance(decision, Decision)
    assert decision.attention.name == "b"
    assert Verdict("attention", "a", "d-a", "2", "rejected", "broken", "fails to import") in decision.verdicts
