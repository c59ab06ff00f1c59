"""The typed contracts between core and plugins: Protocols plus frozen Specs, one file per family.

Nothing here imports torch at run time, so listing and negotiating stay cheap. A plugin imports
words (`errors`, `request`, `batch`), these contracts, `sglcore.layers` and `hookimpl`; what it
needs from above it is handed as one of the Protocols in `services`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sglcore.contracts.attention import AttentionBackend, AttentionBatch, AttentionSpec, KVView
    from sglcore.contracts.execution import Launcher, Pending, PendingStep, StepExecutor
    from sglcore.contracts.families import FAMILIES, Family
    from sglcore.contracts.models import BuildContext, ForwardInputs, KVGroup, Model, ModelSpec
    from sglcore.contracts.ops import LinearOp, Ops, OpsSpec
    from sglcore.contracts.platforms import Platform, PlatformSpec
    from sglcore.contracts.policies import Policy, PolicySpec, Waiting
    from sglcore.contracts.routes import ModelInfo, RouteContext, RouteEntry, RouteSpec
    from sglcore.contracts.services import EngineClient, TextService
    from sglcore.contracts.spec import Spec
    from sglcore.contracts.weights import (
        Checkpoint,
        TextAssets,
        WeightFormat,
        WeightFormatSpec,
        WeightSource,
        WeightSourceSpec,
    )

_HOME = {
    "AttentionBackend": "attention",
    "AttentionBatch": "attention",
    "AttentionSpec": "attention",
    "BuildContext": "models",
    "Checkpoint": "weights",
    "EngineClient": "services",
    "FAMILIES": "families",
    "Family": "families",
    "ForwardInputs": "models",
    "KVGroup": "models",
    "KVView": "attention",
    "Launcher": "execution",
    "LinearOp": "ops",
    "Model": "models",
    "ModelInfo": "routes",
    "ModelSpec": "models",
    "Ops": "ops",
    "OpsSpec": "ops",
    "Pending": "execution",
    "PendingStep": "execution",
    "Platform": "platforms",
    "PlatformSpec": "platforms",
    "Policy": "policies",
    "PolicySpec": "policies",
    "RouteContext": "routes",
    "RouteEntry": "routes",
    "RouteSpec": "routes",
    "Spec": "spec",
    "StepExecutor": "execution",
    "TextAssets": "weights",
    "TextService": "services",
    "Waiting": "policies",
    "WeightFormat": "weights",
    "WeightFormatSpec": "weights",
    "WeightSource": "weights",
    "WeightSourceSpec": "weights",
}


def __getattr__(name: str) -> Any:
    """Load a contract's module when one of its names is first asked for: listing plugins needs none of them."""
    if name not in _HOME:
        raise AttributeError(f"module 'sglcore.contracts' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sglcore.contracts.{_HOME[name]}"), name)


__all__ = [
    "FAMILIES",
    "AttentionBackend",
    "AttentionBatch",
    "AttentionSpec",
    "BuildContext",
    "Checkpoint",
    "EngineClient",
    "Family",
    "ForwardInputs",
    "KVGroup",
    "KVView",
    "Launcher",
    "LinearOp",
    "Model",
    "ModelInfo",
    "ModelSpec",
    "Ops",
    "OpsSpec",
    "Pending",
    "PendingStep",
    "Platform",
    "PlatformSpec",
    "Policy",
    "PolicySpec",
    "RouteContext",
    "RouteEntry",
    "RouteSpec",
    "Spec",
    "StepExecutor",
    "TextAssets",
    "TextService",
    "Waiting",
    "WeightFormat",
    "WeightFormatSpec",
    "WeightSource",
    "WeightSourceSpec",
]
