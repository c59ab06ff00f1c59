"""The typed contracts between core and plugins: Protocols plus frozen Specs, one file per family.

Nothing here imports torch at run time, so listing and negotiating stay cheap. A plugin imports
words (`errors`, `request`, `batch`), these contracts, `sglcore.layers` and `hookimpl`; what it
needs from above it is handed as one of the Protocols in `services`.
"""

from sglcore.contracts.attention import AttentionBackend, AttentionBatch, AttentionSpec, KVView
from sglcore.contracts.execution import Launcher, Pending, PendingStep, StepExecutor
from sglcore.contracts.families import FAMILIES, Family
from sglcore.contracts.models import BuildContext, ForwardInputs, KVGroup, Model, ModelSpec
from sglcore.contracts.ops import LinearOp, Ops
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
