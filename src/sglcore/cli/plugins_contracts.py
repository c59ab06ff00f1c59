"""What a family's factory is called with and what it makes, and whether a plugin's code keeps to it."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import Any, get_type_hints

from sglcore.cli.plugins_signature import methods, missing_methods, takes
from sglcore.contracts.spec import Spec

_HOME = "sglcore.contracts."


@dataclass(frozen=True)
class Product:
    """promise: `module:Protocol` of what the factory returns, "" where that is no object of a Protocol.

    arguments: what the factory is called with, in order.
    """

    promise: str
    arguments: tuple[str, ...] = ()


_HOST = Product("speculators:HostProposer", ("context",))
_DEVICE = Product("speculators:DeviceProposer", ("context", "build", "target"))
PRODUCTS: dict[str, Product] = {
    "models": Product("models:Model", ("context",)),
    "attention": Product("attention:AttentionBackend"),
    "quant": Product("quant:QuantMethod", ("context",)),
    "platforms": Product("platforms:Platform"),
    "ops": Product("ops:Ops"),
    "tool_parsers": Product("parsers:ToolParser", ("context",)),
    "reasoning_parsers": Product("parsers:ReasoningParser", ("context",)),
    "chat_formats": Product("chat_formats:ChatFormat", ("context",)),
    "grammars": Product("grammars:GrammarBackend", ("context",)),
    "speculators": _HOST,
    "kv_tiers": Product("kv_tiers:KVTier", ("context",)),
    "kv_transfers": Product("kv_transfers:KVTransfer", ("context",)),
    "executors": Product("executors:Executor", ("options",)),
    "weight_sources": Product("weights:WeightSource"),
    "weight_formats": Product("weights:WeightFormat"),
    "policies": Product("policies:Policy"),
    "logits_processors": Product("logits_processors:LogitsProcessor", ("context",)),
    "routes": Product("", ("context",)),
    "metrics_sinks": Product("metrics_sinks:MetricsSink", ("context",)),
}


def code_problems(family: str, spec: Spec, code: Any) -> list[str]:
    """What keeps `code`, the factory of `spec`, from being what the contract of `family` says; one sentence each."""
    product = _DEVICE if getattr(spec, "where", "") == "device" else PRODUCTS.get(family)
    if product is None:
        return []  # a command may be an app or a function with any options
    if not callable(code):
        return [f"its factory {spec.factory} is a {type(code).__name__} and cannot be called"]
    problem = takes(code, product.arguments)
    wrong = [f"its factory {spec.factory} {problem}"] if problem else []
    made = _made_by(code)
    if not product.promise or made is None:
        return wrong
    module, _, name = product.promise.partition(":")
    promise: type = getattr(importlib.import_module(_HOME + module), name)
    only = None
    if family == "ops":
        only, unknown = _provided(spec, promise)
        wrong += unknown
    return wrong + missing_methods(promise, made, only)


def _provided(spec: Any, promise: type) -> tuple[tuple[str, ...], list[str]]:
    """The ops that a Spec says it provides: those there are, and a complaint about each of the others."""
    known = methods(promise)
    strange = [name for name in spec.provides if name not in known]
    complaints = [f"its Spec provides {name!r}, which is no op; there are {', '.join(known)}" for name in strange]
    return tuple(name for name in spec.provides if name in known), complaints


def _made_by(code: Any) -> type | None:
    """The class whose objects a factory makes: itself, or what a function says it returns; None if it does not say."""
    if inspect.isclass(code):
        return code
    try:
        made = get_type_hints(code).get("return")
    except Exception:  # an annotation that is only there for the type checker
        return None
    return made if inspect.isclass(made) and not getattr(made, "_is_protocol", False) else None
