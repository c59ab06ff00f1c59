"""Signatures against those a contract promises."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import pytest

from sglcore.cli.plugins_contracts import PRODUCTS, code_problems
from sglcore.cli.plugins_signature import methods, mismatch, missing_methods, takes
from sglcore.contracts.attention import AttentionBackend
from sglcore.contracts.families import FAMILIES
from sglcore.contracts.ops import OpsSpec
from sglcore.contracts.policies import PolicySpec
from sglcore.contracts.spec import optional


class Promise(Protocol):
    def act(self, a: int, b: int, *, c: int = 0) -> int: ...

    async def later(self) -> None: ...

    @property
    def state(self) -> int: ...

    @optional
    def extra(self) -> int:
        return 0


class Good:
    state = 3

    def act(self, a: int, b: int, *, c: int = 0, d: int = 1) -> int:
        return a

    async def later(self) -> None: ...


def promised() -> inspect.Signature:
    return inspect.signature(lambda a, b, *, c=0: None)


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (lambda a, b, *, c=0: None, None),
        (lambda a, b, c=0: None, None),
        (lambda a, b, c=0, *, d=1: None, None),
        (lambda *args, **kwargs: None, None),
        (lambda a, *rest, **more: None, None),
        (lambda a, *, c=0: None, "takes no `b`"),
        (lambda a, b: None, "takes no `c`"),
        (lambda a, x, *, c=0: None, "takes `x` where the contract says `b`"),
        (lambda a, b, *, c=0, d: None, "asks for `d`"),
        (lambda a, b, z, *, c=0: None, "asks for `z`"),
    ],
)
def test_a_signature_that_a_call_does_not_fit_is_told(code: Any, problem: str | None) -> None:
    found = mismatch(promised(), inspect.signature(code))
    assert (found is None) if problem is None else problem in str(found)


def test_methods_of_a_class() -> None:
    assert methods(Promise) == ["act", "later", "state", "extra"]
    assert missing_methods(Promise, Good) == []

    class Bad:
        def act(self, a: int) -> int:
            return a

        def later(self) -> None: ...

    assert missing_methods(Promise, Bad) == [
        "Bad.act takes no `b`: (a) instead of (a, b, *, c=0)",
        "Bad.later must be an async function",
        "Bad has no `state`, which Promise promises",
    ]

    class Open(Bad):
        def __getattr__(self, name: str) -> Any: ...

    assert missing_methods(Promise, Open) == []


def test_static_and_class_methods_have_no_self_to_take_off() -> None:
    class Static(Good):
        @staticmethod
        def act(a: int, b: int, *, c: int = 0) -> int:  # type: ignore[override]
            return a

    class Class(Good):
        @classmethod
        def act(cls, a: int, b: int, *, c: int = 0) -> int:  # type: ignore[override]
            return a

    assert missing_methods(Promise, Static) == missing_methods(Promise, Class) == []


def test_a_factory_is_called_with_what_its_family_says() -> None:
    assert takes(Good, ()) is None
    assert "is called as `(context)` but takes ()" in str(takes(lambda: None, ("context",)))
    assert takes(int, ("context",)) is None


def test_ops_that_a_spec_provides_are_looked_for() -> None:
    class Kernels:
        def rms_norm(self, x: Any, weight: Any) -> Any: ...

    spec = OpsSpec(name="o", factory="m:Kernels", provides=("rms_norm", "silu_mul", "teleport"))
    first, second, third = code_problems("ops", spec, Kernels)
    assert "provides 'teleport', which is no op" in first
    assert "Kernels.rms_norm takes no `eps`" in second
    assert "Kernels has no `silu_mul`" in third


def test_a_function_is_judged_by_what_it_says_it_returns() -> None:
    class Nothing: ...

    def says() -> Nothing:
        return Nothing()

    says.__annotations__["return"] = Nothing
    spec = PolicySpec(name="p", factory="m:says")
    assert code_problems("policies", spec, says) == ["Nothing has no `order`, which Policy promises"]
    assert code_problems("policies", spec, lambda: None) == []
    assert "is a int and cannot be called" in code_problems("policies", spec, 3)[0]


def test_every_family_with_a_spec_has_a_product() -> None:
    assert set(PRODUCTS) | {"commands", "hooks"} == set(FAMILIES)
    assert "attend" in methods(AttentionBackend)
