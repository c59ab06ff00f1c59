"""From config.json to a Transformers class: what it is, and whether the fallback may serve it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglcore.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from sglcore.contracts.models import BuildContext

LAYER_TYPES = {"full_attention", "sliding_attention"}
# Known by name, because their code calls no attention interface that could be asked.
ALIBI_MODEL_TYPES = {"bloom", "mpt"}


def refusal(architecture: str, reason: str) -> ConfigError:
    """The error that says why an architecture cannot run here and what can."""
    return ConfigError(
        f"{architecture} cannot run on the Transformers fallback: {reason}.",
        remedy="Install a model plugin that serves it natively (`sglcore plugins list` shows those present).",
    )


def one_line(error: BaseException) -> str:
    """An error of foreign code, fit for a place in a sentence."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def resolve(ctx: BuildContext) -> tuple[str, PreTrainedConfig, type[PreTrainedModel]]:
    """The architecture's name, its config object and model class.

    Code of the model repository is used only for an architecture that Transformers does not know, and only
    with `ctx.trust_remote_code`. Raises ConfigError for an architecture that is unknown or cannot be served.
    """
    data = dict(ctx.config)
    # A quantised checkpoint is undone by its weight format, if at all, before the tensors arrive here.
    data.pop("quantization_config", None)
    model_type = data.get("model_type")
    architecture = str((data.get("architectures") or [model_type or "an unnamed architecture"])[0])
    pair = _native(data, architecture) or _remote(ctx, data, architecture)
    if pair is None:
        raise ConfigError(
            f"Transformers knows no causal language model for {architecture!r} (model_type {model_type!r}).",
            remedy="Upgrade transformers, or install a model plugin that serves it.",
        )
    config, model_class = pair
    config.use_cache = False
    _check(architecture, config, model_class, ctx)
    return architecture, config, model_class


def _native(data: dict[str, Any], architecture: str) -> tuple[PreTrainedConfig, type[PreTrainedModel]] | None:
    import transformers
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    model_type = str(data.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        return None
    config = _config_object(CONFIG_MAPPING[model_type], data, architecture)
    if config.is_encoder_decoder:
        raise refusal(architecture, "it is an encoder-decoder model, the fallback serves decoders")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        if "auto_map" in data:
            return None
        raise refusal(architecture, f"model_type {model_type!r} has no causal language model in Transformers")
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    # Some checkpoints spell the name otherwise or leave it out; only a class of another task is another model.
    if architecture != model_class.__name__ and "architectures" in data:
        if "auto_map" in data:
            return None
        if hasattr(transformers, architecture):
            raise refusal(architecture, f"for model_type {model_type!r} it serves {model_class.__name__} alone")
    return config, model_class


def _config_object(config_class: Any, data: dict[str, Any], architecture: str) -> PreTrainedConfig:
    try:
        return config_class.from_dict(data)
    except Exception as error:  # the validators of Transformers raise many types
        raise ConfigError(
            f"Transformers does not accept the config.json of {architecture} ({one_line(error)}).",
            remedy="Check config.json and --json-model-override-args.",
        ) from error


def _remote(
    ctx: BuildContext, data: dict[str, Any], architecture: str
) -> tuple[PreTrainedConfig, type[PreTrainedModel]] | None:
    names = data.get("auto_map") or {}
    if "AutoConfig" not in names or "AutoModelForCausalLM" not in names:
        return None
    if not ctx.trust_remote_code or ctx.directory is None:
        raise ConfigError(
            f"Architecture {architecture} is not part of Transformers; its model repository brings its own Python "
            "code, which does not run without permission.",
            remedy="If you trust the repository, start with --trust-remote-code.",
        )
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    try:
        config_class = get_class_from_dynamic_module(names["AutoConfig"], ctx.directory)
        model_class = get_class_from_dynamic_module(names["AutoModelForCausalLM"], ctx.directory)
    except (OSError, ImportError, AttributeError) as error:
        raise ConfigError(
            f"The code that {ctx.directory} names for {architecture} cannot be loaded: {error}.",
            remedy="Check that the files named in auto_map are complete and their imports installed.",
        ) from error
    return _config_object(config_class, data, architecture), model_class


def _check(architecture: str, config: PreTrainedConfig, model_class: type[PreTrainedModel], ctx: BuildContext) -> None:
    text = config.get_text_config()
    odd = sorted(set(getattr(text, "layer_types", None) or ()) - LAYER_TYPES)
    if getattr(text, "alibi", False) or text.model_type in ALIBI_MODEL_TYPES:
        raise refusal(architecture, "it encodes positions as biases on the attention scores (ALiBi)")
    if getattr(model_class, "_is_stateful", False):
        raise refusal(
            architecture, "it carries a recurrent state (state space or linear attention) beside or instead of KV"
        )
    if odd:
        raise refusal(architecture, f"it has layers of type {', '.join(odd)}")
    if getattr(text, "use_bidirectional_attention", False) in (True, "all"):
        raise refusal(architecture, "its attention is not causal (use_bidirectional_attention)")
    if not getattr(model_class, "_supports_attention_backend", False):
        raise refusal(architecture, "its attention does not go through Transformers' attention interface")
    if ctx.tp_size != 1:
        raise refusal(architecture, f"the fallback does not shard (tensor-parallel size {ctx.tp_size}, it takes 1)")
