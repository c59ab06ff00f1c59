"""The typed contracts between core and plugins: Protocols plus frozen Specs, one file per family.

Nothing here imports torch at run time, so listing and negotiating stay cheap. A plugin imports
words (`errors`, `request`, `batch`), these contracts, `sglcore.layers` and `hookimpl`; what it
needs from above it is handed as one of the Protocols in `services`.
"""
# ruff: noqa: F401 -- the imports are for type checkers; at run time `__getattr__` finds the same names

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sglcore.contracts.attention import (
        AttentionBackend,
        AttentionBatch,
        AttentionSpec,
        GraphBackend,
        KVView,
        LatentBackend,
        RopeWriter,
    )
    from sglcore.contracts.chat_formats import ChatFormat, ChatFormatContext, ChatFormatSpec
    from sglcore.contracts.commands import Command, CommandSpec
    from sglcore.contracts.execution import (
        Collectives,
        DeviceLauncher,
        Launcher,
        Pending,
        PendingStep,
        Rendezvous,
        Replay,
        StepExecutor,
    )
    from sglcore.contracts.executors import Executor, ExecutorSpec, Need, Place, RankProcess, Role, StartOrder
    from sglcore.contracts.families import FAMILIES, Family
    from sglcore.contracts.grammars import (
        CompiledGrammar,
        GrammarBackend,
        GrammarContext,
        GrammarSource,
        GrammarSpec,
        Matcher,
    )
    from sglcore.contracts.kv_tiers import KVTier, KVTierSpec
    from sglcore.contracts.kv_transfers import Arrival, FirstToken, KVTransfer, KVTransferSpec
    from sglcore.contracts.logits_processors import LogitsProcessor, LogitsProcessorSpec, ProcessorContext
    from sglcore.contracts.metrics_sinks import MetricsSink, MetricsSinkSpec, Sample, SinkContext
    from sglcore.contracts.models import BuildContext, ForwardInputs, KVGroup, Model, ModelSpec
    from sglcore.contracts.ops import FusedOps, LinearOp, Ops, OpsSpec, WritingLinear
    from sglcore.contracts.pages import PageContext, PageRun, Progress, Transfer
    from sglcore.contracts.parsers import (
        ArgumentsDelta,
        CallEnded,
        CallStarted,
        ParseContext,
        ReasoningDelta,
        ReasoningEvent,
        ReasoningParser,
        ReasoningParserSpec,
        TextDelta,
        Tool,
        ToolEvent,
        ToolParser,
        ToolParserSpec,
    )
    from sglcore.contracts.platforms import DeviceMemory, MeasuredPlatform, Platform, PlatformSpec
    from sglcore.contracts.policies import (
        CachedRun,
        EvictionOrder,
        EvictionSpec,
        Policy,
        PolicySpec,
        Waiting,
    )
    from sglcore.contracts.quant import LinearPart, QuantContext, QuantMethod, QuantSpec, QuantTensor
    from sglcore.contracts.routes import ModelInfo, Problem, RouteContext, RouteDoc, RouteEntry, RouteSpec
    from sglcore.contracts.services import (
        ChatService,
        Detokenizer,
        EngineClient,
        HttpService,
        Media,
        StopFinder,
        TextService,
        Turn,
        TurnEnd,
    )
    from sglcore.contracts.spec import Spec
    from sglcore.contracts.speculators import (
        DeviceProposer,
        DraftContext,
        DraftInputs,
        HostDrafts,
        HostProposer,
        SpeculatorSpec,
    )
    from sglcore.contracts.weights import (
        Checkpoint,
        TextAssets,
        WeightFormat,
        WeightFormatSpec,
        WeightSource,
        WeightSourceSpec,
    )

# module: its public names
_NAMES = {
    "attention": "AttentionBackend AttentionBatch AttentionSpec GraphBackend KVView LatentBackend RopeWriter",
    "chat_formats": "ChatFormat ChatFormatContext ChatFormatSpec",
    "commands": "Command CommandSpec",
    "execution": "Collectives DeviceLauncher Launcher Pending PendingStep Rendezvous Replay StepExecutor",
    "executors": "Executor ExecutorSpec Need Place RankProcess Role StartOrder",
    "families": "FAMILIES Family",
    "grammars": "CompiledGrammar GrammarBackend GrammarContext GrammarSource GrammarSpec Matcher",
    "kv_tiers": "KVTier KVTierSpec",
    "kv_transfers": "Arrival FirstToken KVTransfer KVTransferSpec",
    "logits_processors": "LogitsProcessor LogitsProcessorSpec ProcessorContext",
    "metrics_sinks": "MetricsSink MetricsSinkSpec Sample SinkContext",
    "models": "BuildContext ForwardInputs KVGroup Model ModelSpec",
    "ops": "FusedOps LinearOp Ops OpsSpec WritingLinear",
    "pages": "PageContext PageRun Progress Transfer",
    "parsers": "ArgumentsDelta CallEnded CallStarted ParseContext ReasoningDelta ReasoningEvent ReasoningParser "
    "ReasoningParserSpec TextDelta Tool ToolEvent ToolParser ToolParserSpec",
    "platforms": "DeviceMemory MeasuredPlatform Platform PlatformSpec",
    "policies": "CachedRun EvictionOrder EvictionSpec Policy PolicySpec Waiting",
    "quant": "LinearPart QuantContext QuantMethod QuantSpec QuantTensor",
    "routes": "ModelInfo Problem RouteContext RouteDoc RouteEntry RouteSpec",
    "services": "ChatService Detokenizer EngineClient HttpService Media StopFinder TextService Turn TurnEnd",
    "spec": "Spec",
    "speculators": "DeviceProposer DraftContext DraftInputs HostDrafts HostProposer SpeculatorSpec",
    "weights": "Checkpoint TextAssets WeightFormat WeightFormatSpec WeightSource WeightSourceSpec",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Load a contract's module when one of its names is first asked for: listing plugins needs none of them."""
    if name not in _HOME:
        raise AttributeError(f"module 'sglcore.contracts' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sglcore.contracts.{_HOME[name]}"), name)
