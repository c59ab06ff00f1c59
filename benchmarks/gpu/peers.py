"""Other engines' offline APIs behind the calls that the measurements make of sglcore's: generate, info, shutdown.

Each is used as its documentation shows, with random weights, token ids in and token ids out, and its own defaults for
everything else. Flags given on the command line go to its constructor.
"""

from __future__ import annotations

import gc
import importlib
import time
from pathlib import Path
from typing import Any, Protocol

Answers = list[dict[str, Any]]
CONTEXT = 8192


class Offline(Protocol):
    """What is measured. An answer holds `output_ids` and `meta_info`, of which `cached_tokens` (None: not told)."""

    info: dict[str, Any]

    def generate(self, *, input_ids: list[list[int]], sampling_params: dict[str, Any]) -> Answers: ...

    def shutdown(self) -> None: ...


class NotInstalled(SystemExit):
    """A peer that cannot be imported here; the message is for the person who asked."""


def module_of(name: str) -> Any:
    """The peer's package. Raises NotInstalled."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotInstalled(
            f"{name} cannot be measured: {error}. Install it in an environment of its own and run this script with "
            "that environment's python."
        ) from None


def open_engine(name: str, path: Path, cache: bool, flags: dict[str, Any]) -> Offline:
    """Engine `name` on the model at `path`, its prefix cache on or off. Raises NotInstalled."""
    return OPEN[name](path, cache, flags)


def _sglcore(path: Path, cache: bool, flags: dict[str, Any]) -> Offline:
    given: dict[str, Any] = {
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "dtype": "bfloat16",
        "context_length": CONTEXT,
        "disable_radix_cache": not cache,
    }
    engine: Offline = module_of("sglcore").Engine(str(path), **{**given, **flags})
    return engine


class Sglang:
    """https://docs.sglang.io/basic_usage/offline_engine_api.html"""

    def __init__(self, path: Path, cache: bool, flags: dict[str, Any]) -> None:
        given: dict[str, Any] = {
            "model_path": str(path),
            "load_format": "dummy",
            "skip_tokenizer_init": True,
            "dtype": "bfloat16",
            "context_length": CONTEXT,
            "disable_radix_cache": not cache,
        }
        package = module_of("sglang")
        start = time.perf_counter()
        self._engine = package.Engine(**{**given, **flags})
        self.info = _info(package, start)

    def generate(self, *, input_ids: list[list[int]], sampling_params: dict[str, Any]) -> Answers:
        found: Answers = self._engine.generate(input_ids=input_ids, sampling_params=sampling_params)
        return found

    def shutdown(self) -> None:
        self._engine.shutdown()


class Vllm:
    """https://docs.vllm.ai/en/latest/serving/offline_inference.html"""

    def __init__(self, path: Path, cache: bool, flags: dict[str, Any]) -> None:
        given: dict[str, Any] = {
            "model": str(path),
            "load_format": "dummy",
            "skip_tokenizer_init": True,
            "dtype": "bfloat16",
            "max_model_len": CONTEXT,
            "enable_prefix_caching": cache,
        }
        self._package = module_of("vllm")
        start = time.perf_counter()
        self._llm: Any = self._package.LLM(**{**given, **flags})
        self.info = _info(self._package, start)

    def generate(self, *, input_ids: list[list[int]], sampling_params: dict[str, Any]) -> Answers:
        prompt = module_of("vllm.inputs").TokensPrompt
        sampling = self._package.SamplingParams(
            max_tokens=sampling_params["max_new_tokens"],
            temperature=sampling_params["temperature"],
            ignore_eos=sampling_params["ignore_eos"],
            detokenize=False,
        )
        prompts = [prompt(prompt_token_ids=ids) for ids in input_ids]
        return [
            {"output_ids": list(o.outputs[0].token_ids), "meta_info": {"cached_tokens": o.num_cached_tokens}}
            for o in self._llm.generate(prompts, sampling, use_tqdm=False)
        ]

    def shutdown(self) -> None:
        core = getattr(self._llm.llm_engine, "engine_core", None)  # its process holds the memory
        if core is not None:
            core.shutdown()
        self._llm = None
        gc.collect()


class Transformers:
    """https://huggingface.co/docs/transformers/continuous_batching: what it prepares for a batch is timed with it."""

    def __init__(self, path: Path, cache: bool, flags: dict[str, Any]) -> None:
        import torch

        self._package = package = module_of("transformers")
        self._cache = cache
        start = time.perf_counter()
        device = flags.pop("device", "cuda")
        given = {"attn_implementation": "sdpa", "dtype": torch.bfloat16, **flags}
        with torch.device(device):
            self._model: Any = package.AutoModelForCausalLM.from_config(
                package.AutoConfig.from_pretrained(str(path)), **given
            ).eval()
        self.info = _info(package, start)

    def generate(self, *, input_ids: list[list[int]], sampling_params: dict[str, Any]) -> Answers:
        generation = module_of("transformers.generation")
        wanted = generation.GenerationConfig(
            max_new_tokens=sampling_params["max_new_tokens"], do_sample=False, eos_token_id=-1, pad_token_id=0
        )
        batching = generation.ContinuousBatchingConfig(allow_block_sharing=self._cache)
        found = self._model.generate_batch(
            inputs=input_ids, generation_config=wanted, continuous_batching_config=batching, progress_bar=False
        )
        return [{"output_ids": o.generated_tokens, "meta_info": {"cached_tokens": None}} for o in found.values()]

    def shutdown(self) -> None:
        import torch

        self._model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _info(package: Any, start: float) -> dict[str, Any]:
    return {"version": package.__version__, "start_phases": {"construct": round(time.perf_counter() - start, 3)}}


OPEN: dict[str, Any] = {"sglcore": _sglcore, "vllm": Vllm, "sglang": Sglang, "transformers": Transformers}
